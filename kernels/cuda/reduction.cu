#include <algorithm>

#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"

// Sums in double. The elements are cut into segments of a fixed length, each summed by one block in a fixed
// order, and the segments' sums are added by one block in a fixed order: the bits depend on the tensor alone.
// Floor: one reading of the tensor.

namespace spectrain {
namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kSegment = 1 << 15;

enum class Summand { value, square, finite };

template <Summand term, class T>
__device__ inline double term_of(T x) {
  const auto wide = static_cast<double>(widen(x));
  if (term == Summand::value) return wide;
  if (term == Summand::square) return wide * wide;
  return isfinite(wide) ? 0.0 : 1.0;
}

template <Summand term, class T>
__global__ void segment_kernel(const T* x, std::int64_t n, double* sums, std::int64_t segments) {
  __shared__ double store[kWarp];
  constexpr int kOnce = kPack<T>;
  for (std::int64_t s = blockIdx.x; s < segments; s += gridDim.x) {
    const std::int64_t begin = s * kSegment, end = begin + kSegment < n ? begin + kSegment : n;
    double sum = 0;
    if (reinterpret_cast<std::uintptr_t>(x) % 16 == 0) {
      std::int64_t i = begin + static_cast<std::int64_t>(threadIdx.x) * kOnce;
      for (; i + kOnce <= end; i += std::int64_t{kThreads} * kOnce) {
        const Pack<T, kOnce> p = load_pack(x + i);
        for (int k = 0; k < kOnce; ++k) sum += term_of<term>(p.v[k]);
      }
      for (int k = 0; k < kOnce; ++k)
        if (i + k < end) sum += term_of<term>(x[i + k]);
    } else {
      for (std::int64_t i = begin + static_cast<std::int64_t>(threadIdx.x) * kOnce; i < end;
           i += std::int64_t{kThreads} * kOnce)
        for (int k = 0; k < kOnce; ++k)
          if (i + k < end) sum += term_of<term>(x[i + k]);
    }
    sum = block_sum(sum, store);
    if (threadIdx.x == 0) sums[s] = sum;
    __syncthreads();
  }
}

// total = before + the sum of sums[0..n); before is total's old value when `add`.
__global__ void total_kernel(const double* sums, std::int64_t n, double* total, bool add) {
  __shared__ double store[kWarp];
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kThreads) sum += sums[i];
  sum = block_sum(sum, store);
  if (threadIdx.x == 0) *total = (add ? *total : 0) + sum;
}

template <Summand term>
void sum_into(CudaBackend& b, std::span<const Tensor> xs, double* total, bool add) {
  std::int64_t segments = 0;
  for (const Tensor& x : xs) segments += (x.numel() + kSegment - 1) / kSegment;
  auto* sums = static_cast<double*>(b.scratch(static_cast<std::size_t>(segments + 1) * sizeof(double)));
  std::int64_t first = 0;
  for (const Tensor& x : xs) {
    const std::int64_t n = x.numel(), count = (n + kSegment - 1) / kSegment;
    if (n == 0) continue;
    with_float(x, "sum", [&](const auto* p) {
      launch(b.stream(), {b.blocks_for(count), kThreads},
             segment_kernel<term, std::remove_cv_t<Element<decltype(p)>>>, p, n, sums + first, count);
    });
    first += count;
  }
  launch(b.stream(), {1, kThreads}, total_kernel, sums, segments, total, add);
}

// The sum, in host memory.
template <Summand term>
double sum_now(CudaBackend& b, const Tensor& x, double* answer) {
  // The total lies behind the segments' sums, in the same scratch memory.
  const std::int64_t segments = (x.numel() + kSegment - 1) / kSegment;
  auto* total =
      static_cast<double*>(b.scratch(static_cast<std::size_t>(segments + 1) * sizeof(double))) + segments;
  sum_into<term>(b, {&x, 1}, total, false);
  check_cuda(cudaMemcpyAsync(answer, total, sizeof(double), cudaMemcpyDeviceToHost, b.stream()),
             "reading a sum");
  b.wait();
  return *answer;
}

}  // namespace

double CudaBackend::sum(const Tensor& x) { return sum_now<Summand::value>(*this, x, answer_); }
double CudaBackend::sum_of_squares(const Tensor& x) { return sum_now<Summand::square>(*this, x, answer_); }
bool CudaBackend::all_finite(const Tensor& x) { return sum_now<Summand::finite>(*this, x, answer_) == 0; }

void CudaBackend::add_sum(const Tensor& x, const Tensor& total) {
  sum_into<Summand::value>(*this, {&x, 1}, total.as<double>(), true);
}
void CudaBackend::add_squares(std::span<const Tensor> xs, const Tensor& total) {
  sum_into<Summand::square>(*this, xs, total.as<double>(), true);
}

}  // namespace spectrain
