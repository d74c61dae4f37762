#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"

namespace spectrain {
namespace {

constexpr int kTile = 32, kRows = 8;

// Through shared memory, so that both the reading and the writing go along rows; one column more than the
// tile is wide, so that a column's elements lie in different banks. Floor: one reading and one writing.
template <class From, class To>
__global__ void transpose_kernel(const From* x, To* y, std::int64_t rows, std::int64_t cols) {
  __shared__ float tile[kTile][kTile + 1];
  const std::int64_t tiles_across = (cols + kTile - 1) / kTile,
                     tiles = tiles_across * ((rows + kTile - 1) / kTile);
  for (std::int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const std::int64_t row = t / tiles_across * kTile, col = t % tiles_across * kTile;
    for (int r = static_cast<int>(threadIdx.y); r < kTile; r += kRows)
      if (row + r < rows && col + threadIdx.x < cols)
        tile[r][threadIdx.x] = static_cast<float>(widen(x[(row + r) * cols + col + threadIdx.x]));
    __syncthreads();
    for (int r = static_cast<int>(threadIdx.y); r < kTile; r += kRows)
      if (col + r < cols && row + threadIdx.x < rows)
        y[(col + r) * rows + row + threadIdx.x] = narrow<To>(tile[threadIdx.x][r]);
    __syncthreads();
  }
}

}  // namespace

void CudaBackend::transpose(const Tensor& x, const Tensor& y) {
  require(x.rows() == y.cols() && x.cols() == y.rows(), "transpose", "the shapes do not fit");
  const std::int64_t rows = x.rows(), cols = x.cols();
  if (x.numel() == 0) return;
  const std::int64_t tiles = ((rows + kTile - 1) / kTile) * ((cols + kTile - 1) / kTile);
  with_iterated(x, "transpose", [&](auto* from) {
    with_iterated(y, "transpose", [&](auto* to) {
      launch(stream_, {blocks_for(tiles, 16), dim3(kTile, kRows)},
             transpose_kernel<Element<decltype(from)>, Element<decltype(to)>>, from, to, rows, cols);
    });
  });
}

}  // namespace spectrain
