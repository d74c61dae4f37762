#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/words.h"

namespace spectrain {
namespace {

constexpr int kWarps = 8;             // of a block of the first kernel
constexpr int kColumns = kWarp;       // of a block of the second kernel
constexpr std::int64_t kParts = 256;  // of a tall matrix: enough blocks to fill a device, few partial sums

// The rows of one part: the shape alone decides, so the order of additions does not depend on the device.
inline std::int64_t rows_of_part(std::int64_t rows) {
  const std::int64_t least = 8 * kWarps;
  return std::max(least, (rows + kParts - 1) / kParts);
}

// Column sums of dy [rows, cols], for each part of the rows and each strip of 32 packs of columns: a warp
// takes every eighth row of the part, the block adds its warps. Floor: one reading of dy; four rows of 16
// bytes are in flight for each thread.
template <int N, class T>
__global__ void __launch_bounds__(kWarps* kWarp)
    column_sums_kernel(const T* dy, std::int64_t rows, std::int64_t cols, std::int64_t rows_of_part,
                       float* sums) {
  __shared__ float store[kWarps][kWarp * N];
  constexpr int kFlight = 4;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t strips = (cols + kWarp * N - 1) / (kWarp * N),
                     parts = (rows + rows_of_part - 1) / rows_of_part;
  for (std::int64_t work = blockIdx.x; work < strips * parts; work += gridDim.x) {
    const std::int64_t part = work / strips, col = (work % strips * kWarp + lane) * N;
    const std::int64_t end = (part + 1) * rows_of_part < rows ? (part + 1) * rows_of_part : rows;
    float sum[N] = {};
    if (col < cols) {
      std::int64_t r = part * rows_of_part + warp;
      for (; r + (kFlight - 1) * kWarps < end; r += kFlight * kWarps) {
        Words<T, N> words[kFlight];
#pragma unroll
        for (int k = 0; k < kFlight; ++k) words[k] = load_words<N>(dy + (r + k * kWarps) * cols + col);
#pragma unroll
        for (int k = 0; k < kFlight; ++k) {
          const Pack<T, N> x = to_pack<T, N>(words[k]);
          for (int i = 0; i < N; ++i) sum[i] += widen(x.v[i]);
        }
      }
      for (; r < end; r += kWarps) {
        const Pack<T, N> x = load_some<N>(dy + r * cols + col);
        for (int i = 0; i < N; ++i) sum[i] += widen(x.v[i]);
      }
    }
    for (int i = 0; i < N; ++i) store[warp][i * kWarp + lane] = sum[i];  // one bank for each lane
    __syncthreads();
    for (int c = static_cast<int>(threadIdx.x); c < kWarp * N; c += kWarps * kWarp) {
      const std::int64_t column = work % strips * kWarp * N + c;
      if (column >= cols) continue;
      float total = 0;
      for (int w = 0; w < kWarps; ++w) total += store[w][c % N * kWarp + c / N];
      sums[part * cols + column] = total;
    }
    __syncthreads();
  }
}

// db (+)= the sum of the parts, 32 columns a block, every 32nd part a warp. Its bytes are a few percent of
// dy's.
__global__ void __launch_bounds__(kColumns* kWarp)
    add_parts_kernel(const float* sums, std::int64_t parts, std::int64_t cols, float* db, bool accumulate) {
  __shared__ float store[kWarp][kColumns + 1];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kColumns; first < cols;
       first += static_cast<std::int64_t>(gridDim.x) * kColumns) {
    float sum = 0;
    if (first + lane < cols)
      for (std::int64_t p = warp; p < parts; p += kWarp) sum += sums[p * cols + first + lane];
    store[warp][lane] = sum;
    __syncthreads();
    sum = warp_sum(store[lane][warp]);  // warp w adds column w
    if (lane == 0 && first + warp < cols) db[first + warp] = (accumulate ? db[first + warp] : 0) + sum;
    __syncthreads();
  }
}

template <int N, class T>
void start(const CudaBackend& b, const T* dy, std::int64_t rows, std::int64_t cols, float* sums) {
  const std::int64_t part = rows_of_part(rows);
  const std::int64_t work = (rows + part - 1) / part * ((cols + kWarp * N - 1) / (kWarp * N));
  launch(b.stream(), {b.blocks_for(work), kWarps * kWarp}, column_sums_kernel<N, T>, dy, rows, cols, part,
         sums);
}

}  // namespace

void CudaBackend::bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) {
  const std::int64_t rows = dy.rows(), cols = dy.cols();
  require_vector(db, DType::f32, cols, cols == 0, "bias_gradient", "db");
  if (cols == 0) return;
  const std::int64_t part = rows_of_part(rows), parts = (rows + part - 1) / part;
  auto* sums = static_cast<float*>(scratch(static_cast<std::size_t>(parts * cols) * sizeof(float)));
  if (rows > 0)
    with_compute(dy, "bias_gradient", [&](const auto* p) {
      using T = std::remove_cv_t<Element<decltype(p)>>;
      if (packable(p, cols))
        start<kPack<T>>(*this, p, rows, cols, sums);
      else
        start<1>(*this, p, rows, cols, sums);
    });
  launch(stream_, {blocks_for((cols + kColumns - 1) / kColumns), kColumns * kWarp}, add_parts_kernel, sums,
         parts, cols, db.as<float>(), accumulate);
}

}  // namespace spectrain
