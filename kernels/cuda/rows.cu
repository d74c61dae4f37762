#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/row_checks.h"
#include "kernels/row_order.h"

namespace spectrain {
namespace {

constexpr int kThreads = 256, kScanThreads = 1024;

// chosen[i] = whether fewer than `count` rows come before row i. Every thread compares its row with all, 256
// of them at a time through shared memory: work grows with the square of the rows, which for the rows of one
// matrix (a few thousand) is less than sorting them would take to start.
__global__ void __launch_bounds__(kThreads)
    choose_kernel(const float* scores, std::int64_t rows, std::int64_t count, std::int32_t* chosen) {
  __shared__ std::uint32_t keys[kThreads];
  const int me = static_cast<int>(threadIdx.x);
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kThreads; first < rows;
       first += static_cast<std::int64_t>(gridDim.x) * kThreads) {
    const std::int64_t row = first + me;
    const std::uint32_t key = row < rows ? score_key(scores[row]) : 0;
    std::int64_t before = 0;
    for (std::int64_t other = 0; other < rows; other += kThreads) {
      __syncthreads();
      if (other + me < rows) keys[me] = score_key(scores[other + me]);
      __syncthreads();
      const int n = static_cast<int>(rows - other < kThreads ? rows - other : kThreads);
      for (int k = 0; k < n; ++k)
        before += keys[k] > key || (keys[k] == key && other + k < row);  // of equal ones the earlier
    }
    if (row < rows) chosen[row] = before < count;
  }
}

// The numbers of the chosen rows, ascending. By one block, 1024 rows at a time.
__global__ void __launch_bounds__(kScanThreads)
    list_kernel(const std::int32_t* chosen, std::int64_t rows, std::int32_t* indices) {
  __shared__ int warps[2][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  std::int64_t before = 0;
  int turn = 0;  // the warps' counts of two turns in a row are kept apart: one barrier is enough
  for (std::int64_t first = 0; first < rows; first += kScanThreads, turn ^= 1) {
    const std::int64_t row = first + threadIdx.x;
    const bool mine = row < rows && chosen[row] != 0;
    const unsigned votes = __ballot_sync(kWholeWarp, mine);
    if (lane == 0) warps[turn][warp] = __popc(votes);
    __syncthreads();
    std::int64_t place = before + __popc(votes & ((1u << lane) - 1u));
    for (int w = 0; w < kWarp; ++w) {
      if (w < warp) place += warps[turn][w];
      before += warps[turn][w];
    }
    if (mine) indices[place] = static_cast<std::int32_t>(row);
  }
}

// Row i of y is, or becomes, row indices[i] of x. An index outside of x is left alone: the host does not see
// it, and memory beside x belongs to others.
template <bool gather, class From, class To>
__global__ void __launch_bounds__(kThreads)
    rows_kernel(const From* from, const std::int32_t* indices, std::int64_t count, std::int64_t rows,
                std::int64_t cols, To* to) {
  for (std::int64_t i = blockIdx.x; i < count; i += gridDim.x) {
    const std::int64_t row = indices[i];
    if (row < 0 || row >= rows) continue;
    const From* const x = from + (gather ? row : i) * cols;
    To* const y = to + (gather ? i : row) * cols;
    for (std::int64_t c = threadIdx.x; c < cols; c += kThreads) y[c] = narrow<To>(widen(x[c]));
  }
}

template <bool add, class T>
__global__ void __launch_bounds__(kThreads)
    columns_kernel(const T* x, std::int64_t x_stride, T* y, std::int64_t y_stride, std::int64_t rows,
                   std::int64_t count) {
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x)
    for (std::int64_t c = threadIdx.x; c < count; c += kThreads) {
      const float from = x ? widen(x[r * x_stride + c]) : 0.0f;
      T& to = y[r * y_stride + c];
      to = narrow<T>(add ? widen(to) + from : from);
    }
}

template <bool gather>
void move_rows(CudaBackend& b, const Tensor& from, const Tensor& indices, const Tensor& to,
               const char* kernel) {
  const std::int64_t count = indices.numel(), cols = from.cols(), rows = (gather ? from : to).rows();
  if (count == 0 || cols == 0) return;
  const std::int32_t* const at = indices.as<std::int32_t>();
  with_iterated(from, kernel, [&](auto* x) {
    with_iterated(to, kernel, [&](auto* y) {
      launch(b.stream(), {b.blocks_for(count), kThreads},
             rows_kernel<gather, Element<decltype(x)>, Element<decltype(y)>>, x, at, count, rows, cols, y);
    });
  });
}

}  // namespace

void CudaBackend::top_rows(const Tensor& scores, const Tensor& indices) {
  require_top_rows(scores, indices);
  const std::int64_t rows = scores.numel(), count = indices.numel();
  if (count == 0) return;
  auto* const chosen =
      static_cast<std::int32_t*>(scratch(static_cast<std::size_t>(rows) * sizeof(std::int32_t)));
  launch(stream_, {blocks_for((rows + kThreads - 1) / kThreads), kThreads}, choose_kernel, scores.as<float>(),
         rows, count, chosen);
  launch(stream_, {1, kScanThreads}, list_kernel, chosen, rows, indices.as<std::int32_t>());
}

void CudaBackend::gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) {
  require_rows(x, indices, y, "gather_rows");
  move_rows<true>(*this, x, indices, y, "gather_rows");
}

void CudaBackend::scatter_rows(const Tensor& y, const Tensor& indices, const Tensor& x) {
  require_rows(x, indices, y, "scatter_rows");
  move_rows<false>(*this, y, indices, x, "scatter_rows");
}

void CudaBackend::copy_columns(const Tensor& x, std::int64_t x_first, const Tensor& y, std::int64_t y_first,
                               std::int64_t count, bool accumulate) {
  require_columns(x, x_first, y, y_first, count);
  if (y.rows() == 0 || count == 0) return;
  with_compute(y, "copy_columns", [&](auto* to) {
    using T = Element<decltype(to)>;
    launch(stream_, {blocks_for(y.rows()), kThreads},
           accumulate ? columns_kernel<true, T> : columns_kernel<false, T>,
           x ? static_cast<const T*>(x.as<T>() + x_first) : nullptr, x ? x.cols() : 0, y.as<T>() + y_first,
           y.cols(), y.rows(), count);
  });
}

}  // namespace spectrain
