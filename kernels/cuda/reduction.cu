#include <algorithm>

#include "kernels/cuda/many.h"

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

template <class T>
struct Summed {
  const T* x;
  bool aligned() const { return reinterpret_cast<std::uintptr_t>(x) % 16 == 0; }
};

// One segment, by all threads of a block: its sum in thread 0.
template <Summand term, class T>
__device__ double segment_sum(const T* x, std::int64_t begin, std::int64_t end, bool aligned, double* store) {
  constexpr int kOnce = kPack<T>;
  std::int64_t i = begin + static_cast<std::int64_t>(threadIdx.x) * kOnce;
  double sum = 0;
  if (aligned)
    for (; i + kOnce <= end; i += std::int64_t{kThreads} * kOnce) {
      const Pack<T, kOnce> p = load_pack(x + i);
      for (int k = 0; k < kOnce; ++k) sum += term_of<term>(p.v[k]);
    }
  for (; i < end; i += std::int64_t{kThreads} * kOnce)
    for (int k = 0; k < kOnce; ++k)
      if (i + k < end) sum += term_of<term>(x[i + k]);
  return block_sum(sum, store);
}

// sums[s] = the sum of segment s, counted over all tensors.
template <Summand term, class T>
__global__ void segment_kernel(const __grid_constant__ Many<Summed<T>, kSegment> many, double* sums) {
  __shared__ double store[kWarp];
  for (std::int64_t s = blockIdx.x; s < many.pieces; s += gridDim.x) {
    const int t = owner_of(many, s);
    const std::int64_t begin = (s - many.first[t]) * kSegment;
    const std::int64_t end = begin + kSegment < many.n[t] ? begin + kSegment : many.n[t];
    const double sum = segment_sum<term>(many.of[t].x, begin, end, many.fours[t], store);
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
  // Runs of one dtype: in a model, all of them.
  std::int64_t done = 0;
  for (std::size_t begin = 0, end; begin < xs.size(); begin = end) {
    for (end = begin + 1; end < xs.size() && xs[end].dtype == xs[begin].dtype;) ++end;
    with_float(xs[begin], "sum", [&](const auto* p) {
      using T = std::remove_cv_t<Element<decltype(p)>>;
      each_many<kSegment>(
          xs.subspan(begin, end - begin), [](const Tensor& x) { return Summed<T>{x.as<T>()}; },
          [](const Tensor& x) { return x.numel(); },
          [&](const Many<Summed<T>, kSegment>& many) {
            launch(b.stream(), {b.blocks_for(many.pieces), kThreads}, segment_kernel<term, T>, many,
                   sums + done);
            done += many.pieces;
          });
    });
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
