#include "kernels/cpu/checks.h"
#include "kernels/cuda/elementwise.h"

// Frobenius norms of a batch of matrices and the matrices divided by them. Sums in double, in an order that
// the shape alone decides: segments of a matrix by one block each, then the segments of a matrix by one
// block. Floor: x read twice (the second time from the level-2 cache where the batch fits it), y written.

namespace spectrain {
namespace {

constexpr std::int64_t kSegment = 1 << 14;  // a multiple of every pack

// What the segments of a batch [matrices][size] are.
struct Segments {
  std::int64_t size, each, count;  // elements of a matrix, segments of a matrix, segments of all
  __device__ std::int64_t begin(std::int64_t s) const { return s / each * size + s % each * kSegment; }
  __device__ std::int64_t length(std::int64_t s) const {
    const std::int64_t rest = size - s % each * kSegment;
    return rest < kSegment ? rest : kSegment;
  }
};

template <int N, class T>
__global__ void __launch_bounds__(kElementThreads) squares_kernel(const T* x, Segments g, double* sums) {
  __shared__ double store[kWarp];
  for (std::int64_t s = blockIdx.x; s < g.count; s += gridDim.x) {
    const T* p = x + g.begin(s);
    const int n = static_cast<int>(g.length(s));
    double sum = 0;
    for (int i = static_cast<int>(threadIdx.x) * N; i < n; i += kElementThreads * N) {
      const Pack<T, N> pack = load_some<N>(p + i);
      for (int k = 0; k < N; ++k) {
        const auto wide = static_cast<double>(widen(pack.v[k]));
        sum += wide * wide;
      }
    }
    sum = block_sum(sum, store);
    if (threadIdx.x == 0) sums[s] = sum;
    __syncthreads();
  }
}

// factors[i] = 1 / (safety max(norm of matrix i, 1e-15)).
__global__ void __launch_bounds__(kElementThreads)
    factors_kernel(const double* sums, Segments g, double safety, float* factors) {
  __shared__ double store[kWarp];
  for (std::int64_t i = blockIdx.x; i < g.count / g.each; i += gridDim.x) {
    double sum = 0;
    for (std::int64_t s = threadIdx.x; s < g.each; s += kElementThreads) sum += sums[i * g.each + s];
    sum = block_sum(sum, store);
    // Written so that NaN stays NaN.
    if (threadIdx.x == 0) factors[i] = static_cast<float>(1 / (safety * sqrt(sum < 1e-30 ? 1e-30 : sum)));
    __syncthreads();
  }
}

// y may be x: an element is read by the thread that then writes it.
template <int N, class T, class Y>
__global__ void __launch_bounds__(kElementThreads)
    scale_kernel(const T* x, Y* y, Segments g, const float* factors) {
  for (std::int64_t s = blockIdx.x; s < g.count; s += gridDim.x) {
    const float factor = factors[s / g.each];
    const std::int64_t begin = g.begin(s);
    const int n = static_cast<int>(g.length(s));
    for (int i = static_cast<int>(threadIdx.x) * N; i < n; i += kElementThreads * N) {
      const Pack<T, N> from = load_some<N>(x + begin + i);
      Pack<Y, N> to;
      for (int k = 0; k < N; ++k) to.v[k] = narrow<Y>(widen(from.v[k]) * factor);
      store_some(y + begin + i, to);
    }
  }
}

template <int N, class X, class Y>
void start(const CudaBackend& b, const X* x, Y* y, const Segments& g, double safety, double* sums,
           float* factors) {
  const Grid grid{b.blocks_for(g.count), kElementThreads};
  launch(b.stream(), grid, squares_kernel<N, X>, x, g, sums);
  launch(b.stream(), {b.blocks_for(g.count / g.each), kElementThreads}, factors_kernel, sums, g, safety,
         factors);
  launch(b.stream(), grid, scale_kernel<N, X, Y>, x, y, g, factors);
}

}  // namespace

void CudaBackend::normalize(const Tensor& x, double safety, const Tensor& y) {
  require(x.shape == y.shape, "normalize", "x and y have different shapes");
  require(x.data != y.data || x.dtype == y.dtype, "normalize", "in place means one dtype");
  const std::int64_t matrices = x.shape.rank() == 3 ? x.shape[0] : 1;
  if (x.numel() == 0) return;
  const std::int64_t size = x.numel() / matrices, each = (size + kSegment - 1) / kSegment;
  const Segments g{size, each, matrices * each};
  auto* sums = static_cast<double*>(scratch(static_cast<std::size_t>(g.count) * sizeof(double) +
                                            static_cast<std::size_t>(matrices) * sizeof(float)));
  auto* factors = reinterpret_cast<float*>(sums + g.count);
  with_iterated(x, "normalize", [&](auto* px) {
    with_iterated(y, "normalize", [&](auto* py) {
      if (size % 4 == 0 && aligned_for(4, px) && aligned_for(4, py))
        start<4>(*this, px, py, g, safety, sums, factors);
      else
        start<1>(*this, px, py, g, safety, sums, factors);
    });
  });
}

}  // namespace spectrain
