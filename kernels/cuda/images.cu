#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/row_checks.h"

namespace spectrain {
namespace {

constexpr int kThreads = 256;

// Patches in the numbers a thread divides by.
struct Sizes {
  int height, width, channels, kernel_height, kernel_width, stride, padding, out_height, out_width;
  std::int64_t patch;
  explicit Sizes(const Patches& p)
      : height(static_cast<int>(p.height)),
        width(static_cast<int>(p.width)),
        channels(static_cast<int>(p.channels)),
        kernel_height(static_cast<int>(p.kernel_height)),
        kernel_width(static_cast<int>(p.kernel_width)),
        stride(static_cast<int>(p.stride)),
        padding(static_cast<int>(p.padding)),
        out_height(static_cast<int>(p.out_height())),
        out_width(static_cast<int>(p.out_width())),
        patch(p.patch()) {}
};

// A thread for each element of rows. Floor: rows written once; the image comes from the level-2 cache.
template <class T>
__global__ void __launch_bounds__(kThreads)
    unfold_kernel(Sizes s, std::int64_t elements, const T* x, T* rows) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements;
       i += step) {
    const std::int64_t place = i / s.patch;
    const int element = static_cast<int>(i % s.patch), channel = element % s.channels;
    const int kx = element / s.channels % s.kernel_width, ky = element / s.channels / s.kernel_width;
    const int at = static_cast<int>(place % s.out_width) * s.stride + kx - s.padding;
    const int y = static_cast<int>(place / s.out_width % s.out_height) * s.stride + ky - s.padding;
    const std::int64_t image = place / s.out_width / s.out_height;
    const bool inside = y >= 0 && y < s.height && at >= 0 && at < s.width;
    rows[i] = inside ? x[((image * s.height + y) * s.width + at) * s.channels + channel] : narrow<T>(0.0f);
  }
}

__device__ inline int place_over(int at, int k, const Sizes& s, int places) {
  const int shifted = at + s.padding - k;
  if (shifted < 0 || shifted % s.stride != 0) return -1;
  return shifted / s.stride < places ? shifted / s.stride : -1;
}

// A thread for each element of x: it gathers, so that nobody's sum depends on who came first.
template <class T>
__global__ void __launch_bounds__(kThreads) fold_kernel(Sizes s, std::int64_t elements, const T* rows, T* x) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements;
       i += step) {
    const std::int64_t pixel = i / s.channels;
    const int channel = static_cast<int>(i % s.channels), at = static_cast<int>(pixel % s.width);
    const int y = static_cast<int>(pixel / s.width % s.height);
    const std::int64_t image = pixel / s.width / s.height;
    float sum = 0;
    for (int ky = 0; ky < s.kernel_height; ++ky) {
      const int line = place_over(y, ky, s, s.out_height);
      if (line < 0) continue;
      for (int kx = 0; kx < s.kernel_width; ++kx) {
        const int column = place_over(at, kx, s, s.out_width);
        if (column < 0) continue;
        const std::int64_t place = (image * s.out_height + line) * s.out_width + column;
        sum += static_cast<float>(
            widen(rows[place * s.patch + (ky * s.kernel_width + kx) * s.channels + channel]));
      }
    }
    x[i] = narrow<T>(sum);
  }
}

// Where the patch at a place begins, in pixels.
__device__ inline std::int64_t corner(const Sizes& s, std::int64_t place) {
  const std::int64_t column = place % s.out_width, line = place / s.out_width % s.out_height,
                     image = place / s.out_width / s.out_height;
  return (image * s.height + line * s.stride) * s.width + column * s.stride;
}

// A thread for each element of y.
template <bool kMean, class T>
__global__ void __launch_bounds__(kThreads) pool_kernel(Sizes s, std::int64_t elements, const T* x, T* y) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements;
       i += step) {
    const std::int64_t first = corner(s, i / s.channels), c = i % s.channels;
    float sum = 0, top = static_cast<float>(widen(x[first * s.channels + c]));
    for (int ky = 0; ky < s.kernel_height; ++ky)
      for (int kx = 0; kx < s.kernel_width; ++kx) {
        const float v = static_cast<float>(widen(x[(first + ky * s.width + kx) * s.channels + c]));
        sum += v;
        top = v > top || v != v ? v : top;
      }
    y[i] = narrow<T>(kMean ? sum * (1.0f / static_cast<float>(s.kernel_height * s.kernel_width)) : top);
  }
}

// A thread for each element of dy; dx is zero before.
template <bool kMean, class T>
__global__ void __launch_bounds__(kThreads)
    pool_backward_kernel(Sizes s, std::int64_t elements, const T* dy, const T* x, T* dx) {
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < elements;
       i += step) {
    const std::int64_t first = corner(s, i / s.channels), c = i % s.channels;
    const float d = static_cast<float>(widen(dy[i]));
    std::int64_t best = first;
    for (int ky = 0; ky < s.kernel_height; ++ky)
      for (int kx = 0; kx < s.kernel_width; ++kx) {
        const std::int64_t pixel = first + ky * s.width + kx;
        if (kMean)
          dx[pixel * s.channels + c] =
              narrow<T>(d * (1.0f / static_cast<float>(s.kernel_height * s.kernel_width)));
        else if (static_cast<float>(widen(x[pixel * s.channels + c])) >
                 static_cast<float>(widen(x[best * s.channels + c])))
          best = pixel;
      }
    if (!kMean) dx[best * s.channels + c] = narrow<T>(d);
  }
}

}  // namespace

void CudaBackend::unfold(const Patches& p, const Tensor& x, const Tensor& rows) {
  require_patches(p, x, rows, "unfold");
  if (rows.numel() == 0) return;
  with_compute(x, "unfold", [&](auto* from) {
    using T = Element<decltype(from)>;
    launch(stream_, {blocks_for((rows.numel() + kThreads - 1) / kThreads), kThreads}, unfold_kernel<T>,
           Sizes(p), rows.numel(), static_cast<const T*>(from), rows.as<T>());
  });
}

void CudaBackend::fold(const Patches& p, const Tensor& rows, const Tensor& x) {
  require_patches(p, x, rows, "fold");
  if (x.numel() == 0) return;
  with_compute(x, "fold", [&](auto* to) {
    using T = Element<decltype(to)>;
    launch(stream_, {blocks_for((x.numel() + kThreads - 1) / kThreads), kThreads}, fold_kernel<T>, Sizes(p),
           x.numel(), static_cast<const T*>(rows.as<T>()), to);
  });
}

void CudaBackend::pool(PoolKind kind, const Patches& p, const Tensor& x, const Tensor& y) {
  require_pool(p, x, y, "pool");
  if (y.numel() == 0) return;
  with_compute(x, "pool", [&](auto* from) {
    using T = Element<decltype(from)>;
    launch(stream_, {blocks_for((y.numel() + kThreads - 1) / kThreads), kThreads},
           kind == PoolKind::mean ? pool_kernel<true, T> : pool_kernel<false, T>, Sizes(p), y.numel(),
           static_cast<const T*>(from), y.as<T>());
  });
}

void CudaBackend::pool_backward(PoolKind kind, const Patches& p, const Tensor& dy, const Tensor& x,
                                const Tensor& dx) {
  require_same(x, dx, "pool_backward", "x and dx");
  require_pool(p, x, dy, "pool_backward");
  fill(dx, 0);
  if (dy.numel() == 0) return;
  with_compute(dy, "pool_backward", [&](auto* from) {
    using T = Element<decltype(from)>;
    launch(stream_, {blocks_for((dy.numel() + kThreads - 1) / kThreads), kThreads},
           kind == PoolKind::mean ? pool_backward_kernel<true, T> : pool_backward_kernel<false, T>, Sizes(p),
           dy.numel(), static_cast<const T*>(from), static_cast<const T*>(x.as<T>()), dx.as<T>());
  });
}

}  // namespace spectrain
