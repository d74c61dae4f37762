#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/row_checks.h"

namespace spectrain {
namespace {

std::int64_t grain(std::int64_t elements) {
  return std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, elements));
}

template <class T>
void unfold_place(const Patches& p, std::int64_t place, const T* x, T* row) {
  const std::int64_t column = place % p.out_width(), line = place / p.out_width() % p.out_height(),
                     image = place / (p.out_width() * p.out_height());
  for (std::int64_t ky = 0; ky < p.kernel_height; ++ky) {
    const std::int64_t y = line * p.stride + ky - p.padding;
    for (std::int64_t kx = 0; kx < p.kernel_width; ++kx, row += p.channels) {
      const std::int64_t at = column * p.stride + kx - p.padding;
      if (y < 0 || y >= p.height || at < 0 || at >= p.width)
        std::fill_n(row, p.channels, T(0.0f));
      else
        std::copy_n(x + ((image * p.height + y) * p.width + at) * p.channels, p.channels, row);
    }
  }
}

// The place along one axis whose patch has element k over the pixel `at`; -1: there is none.
std::int64_t place_over(std::int64_t at, std::int64_t k, const Patches& p, std::int64_t places) {
  const std::int64_t shifted = at + p.padding - k;
  if (shifted < 0 || shifted % p.stride != 0) return -1;
  return shifted / p.stride < places ? shifted / p.stride : -1;
}

template <class T>
void fold_pixel(const Patches& p, std::int64_t pixel, const T* rows, T* x) {
  constexpr std::int64_t kStrip = 64;  // sums are float; a strip of them at a time
  const std::int64_t at = pixel % p.width, y = pixel / p.width % p.height,
                     image = pixel / (p.width * p.height);
  for (std::int64_t first = 0; first < p.channels; first += kStrip) {
    const std::int64_t count = std::min(kStrip, p.channels - first);
    float sum[kStrip] = {};
    for (std::int64_t ky = 0; ky < p.kernel_height; ++ky) {
      const std::int64_t line = place_over(y, ky, p, p.out_height());
      if (line < 0) continue;
      for (std::int64_t kx = 0; kx < p.kernel_width; ++kx) {
        const std::int64_t column = place_over(at, kx, p, p.out_width());
        if (column < 0) continue;
        const std::int64_t place = (image * p.out_height() + line) * p.out_width() + column;
        const T* from = rows + place * p.patch() + (ky * p.kernel_width + kx) * p.channels + first;
        for (std::int64_t c = 0; c < count; ++c) sum[c] += static_cast<float>(from[c]);
      }
    }
    for (std::int64_t c = 0; c < count; ++c) x[first + c] = T(sum[c]);
  }
}

template <class T>
void unfold_all(int threads, const Patches& p, const Tensor& x, const Tensor& rows) {
  parallel_ranges(threads, p.places(), grain(p.patch()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) unfold_place(p, i, x.as<T>(), rows.as<T>() + i * p.patch());
  });
}

template <class T>
void fold_all(int threads, const Patches& p, const Tensor& rows, const Tensor& x) {
  parallel_ranges(threads, p.pixels(), grain(p.patch()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) fold_pixel(p, i, rows.as<T>(), x.as<T>() + i * p.channels);
  });
}

// Where the patch at a place begins, in pixels.
std::int64_t corner(const Patches& p, std::int64_t place) {
  const std::int64_t column = place % p.out_width(), line = place / p.out_width() % p.out_height(),
                     image = place / (p.out_width() * p.out_height());
  return (image * p.height + line * p.stride) * p.width + column * p.stride;
}

// body(pixel) for each of the patch at `first`, row by row.
template <class Body>
void each_pixel(const Patches& p, std::int64_t first, const Body& body) {
  for (std::int64_t ky = 0; ky < p.kernel_height; ++ky)
    for (std::int64_t kx = 0; kx < p.kernel_width; ++kx) body(first + ky * p.width + kx);
}

template <class T>
void pool_place(PoolKind kind, const Patches& p, std::int64_t place, const T* x, T* y) {
  const std::int64_t first = corner(p, place);
  const float share = 1.0f / static_cast<float>(p.kernel_height * p.kernel_width);
  for (std::int64_t c = 0; c < p.channels; ++c) {
    float sum = 0, top = static_cast<float>(x[first * p.channels + c]);
    each_pixel(p, first, [&](std::int64_t pixel) {
      const float v = static_cast<float>(x[pixel * p.channels + c]);
      sum += v;
      top = v > top || v != v ? v : top;
    });
    y[c] = T(kind == PoolKind::mean ? sum * share : top);
  }
}

template <class T>
void pool_place_backward(PoolKind kind, const Patches& p, std::int64_t place, const T* dy, const T* x,
                         T* dx) {
  const std::int64_t first = corner(p, place);
  const float share = 1.0f / static_cast<float>(p.kernel_height * p.kernel_width);
  for (std::int64_t c = 0; c < p.channels; ++c) {
    std::int64_t best = first;
    each_pixel(p, first, [&](std::int64_t pixel) {
      if (static_cast<float>(x[pixel * p.channels + c]) > static_cast<float>(x[best * p.channels + c]))
        best = pixel;
    });
    const float d = static_cast<float>(dy[c]);
    each_pixel(p, first, [&](std::int64_t pixel) {
      dx[pixel * p.channels + c] = T(kind == PoolKind::mean ? d * share : pixel == best ? d : 0.0f);
    });
  }
}

template <class T>
void pool_all(int threads, PoolKind kind, const Patches& p, const Tensor& x, const Tensor& y) {
  parallel_ranges(threads, p.places(), grain(p.patch()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) pool_place(kind, p, i, x.as<T>(), y.as<T>() + i * p.channels);
  });
}

// Pixels that no patch covers keep a gradient of zero.
template <class T>
void pool_all_backward(int threads, PoolKind kind, const Patches& p, const Tensor& dy, const Tensor& x,
                       const Tensor& dx) {
  std::fill_n(dx.as<T>(), dx.numel(), T(0.0f));
  parallel_ranges(threads, p.places(), grain(p.patch()), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      pool_place_backward(kind, p, i, dy.as<T>() + i * p.channels, x.as<T>(), dx.as<T>());
  });
}

}  // namespace

// Floor of both: the rows written, or read, once; the image stays in the cache.
void CpuBackend::unfold(const Patches& p, const Tensor& x, const Tensor& rows) {
  require_compute(x, "unfold", "x");
  require_patches(p, x, rows, "unfold");
  x.dtype == DType::f32 ? unfold_all<float>(threads_, p, x, rows) : unfold_all<bf16>(threads_, p, x, rows);
}

void CpuBackend::fold(const Patches& p, const Tensor& rows, const Tensor& x) {
  require_compute(x, "fold", "x");
  require_patches(p, x, rows, "fold");
  x.dtype == DType::f32 ? fold_all<float>(threads_, p, rows, x) : fold_all<bf16>(threads_, p, rows, x);
}

void CpuBackend::pool(PoolKind kind, const Patches& p, const Tensor& x, const Tensor& y) {
  require_compute(x, "pool", "x");
  require_pool(p, x, y, "pool");
  x.dtype == DType::f32 ? pool_all<float>(threads_, kind, p, x, y) : pool_all<bf16>(threads_, kind, p, x, y);
}

void CpuBackend::pool_backward(PoolKind kind, const Patches& p, const Tensor& dy, const Tensor& x,
                               const Tensor& dx) {
  require_compute(dy, "pool_backward", "dy");
  require_same(x, dx, "pool_backward", "x and dx");
  require_pool(p, x, dy, "pool_backward");
  x.dtype == DType::f32 ? pool_all_backward<float>(threads_, kind, p, dy, x, dx)
                        : pool_all_backward<bf16>(threads_, kind, p, dy, x, dx);
}

}  // namespace spectrain
