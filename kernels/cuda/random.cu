#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/random.h"

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

}  // namespace

void CudaBackend::fill_uniform(const Tensor& x, RandomKey key, float low, float high) {
  fill_random<false>(*this, x, key, low, high);
}
void CudaBackend::fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) {
  fill_random<true>(*this, x, key, mean, deviation);
}

}  // namespace spectrain
