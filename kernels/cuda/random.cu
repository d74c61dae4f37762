#include "kernels/cpu/checks.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/stochastic_rounding.h"

namespace spectrain {
namespace {

constexpr int kThreads = 256;

// One block of four random words serves four elements, so one thread makes four.
template <class T, bool normal>
__global__ void random_kernel(T* x, RandomKey key, float a, float b, std::int64_t n) {
  SPECTRAIN_GRID_LOOP(block, (n + 3) / 4) {
    const Random4 r = philox(key, static_cast<std::uint64_t>(block));
    float values[4];
    if (normal) {
      for (int k = 0; k < 4; k += 2) {
        const NormalPair z = normal_pair(r.v[k], r.v[k + 1]);
        values[k] = fmaf(b, z.a, a);
        values[k + 1] = fmaf(b, z.b, a);
      }
    } else {
      for (int k = 0; k < 4; ++k) values[k] = fmaf(b - a, uniform_from(r.v[k]), a);
    }
    for (int k = 0; k < 4; ++k)
      if (4 * block + k < n) x[4 * block + k] = narrow<T>(values[k]);
  }
}

template <bool normal>
void fill_random(CudaBackend& backend, const Tensor& x, RandomKey key, float a, float b) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  with_float(x, "fill_random", [&](auto* p) {
    launch(backend.stream(), {backend.blocks_for((n / 4 + kThreads) / kThreads), kThreads},
           random_kernel<Element<decltype(p)>, normal>, p, key, a, b, n);
  });
}

// Floor: x read, y written. Half a block of random words for four elements that lie in one of them.
struct RoundStochastic {
  RandomKey key;
  std::uint64_t first;
  const float* x;
  bf16* y;
  template <int N>
  __device__ void some(std::int64_t i) const {
    const std::uint64_t index = first + static_cast<std::uint64_t>(i);
    const Pack<float, N> in = load_some<N>(x + i);
    Pack<bf16, N> out;
    Random4 block = philox(key, index >> 3);
    for (int k = 0; k < N; ++k) {
      if (k > 0 && ((index + k) & 7) == 0) block = philox(key, (index + k) >> 3);
      out.v[k] = round_stochastic(in.v[k], random_u16(block, index + k));
    }
    store_some(y + i, out);
  }
};

}  // namespace

void CudaBackend::round_stochastic(const Tensor& x, RandomKey key, std::int64_t first, const Tensor& y) {
  const std::int64_t n = y.numel();
  require(x.numel() == n, "round_stochastic", "x and y have different numbers of elements");
  require(y.dtype == DType::bf16, "round_stochastic", "y is not bf16");
  if (x.dtype == DType::bf16) return copy(x, y);  // nothing to round
  const RoundStochastic body{key, static_cast<std::uint64_t>(first), x.as<float>(), y.as<bf16>()};
  launch_elementwise(*this, body, n, aligned_for(4, body.x) && aligned_for(4, body.y));
}

void CudaBackend::fill_uniform(const Tensor& x, RandomKey key, float low, float high) {
  fill_random<false>(*this, x, key, low, high);
}
void CudaBackend::fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) {
  fill_random<true>(*this, x, key, mean, deviation);
}

}  // namespace spectrain
