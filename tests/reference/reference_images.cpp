#include <algorithm>
#include <cmath>
#include <vector>

#include "tests/reference/reference_backend.h"

namespace spectrain {
namespace {

// body(element of rows, element of x) for everything that lies over the image.
template <class Body>
void each_pair(const Patches& p, Body body) {
  for (std::int64_t b = 0; b < p.batch; ++b)
    for (std::int64_t oy = 0; oy < p.out_height(); ++oy)
      for (std::int64_t ox = 0; ox < p.out_width(); ++ox)
        for (std::int64_t ky = 0; ky < p.kernel_height; ++ky)
          for (std::int64_t kx = 0; kx < p.kernel_width; ++kx)
            for (std::int64_t c = 0; c < p.channels; ++c) {
              const std::int64_t y = oy * p.stride + ky - p.padding, x = ox * p.stride + kx - p.padding;
              if (y < 0 || y >= p.height || x < 0 || x >= p.width) continue;
              const std::int64_t place = (b * p.out_height() + oy) * p.out_width() + ox;
              body(place * p.patch() + (ky * p.kernel_width + kx) * p.channels + c,
                   ((b * p.height + y) * p.width + x) * p.channels + c);
            }
}

}  // namespace

void ReferenceBackend::unfold(const Patches& p, const Tensor& x, const Tensor& rows) {
  fill(rows, 0);
  each_pair(p, [&](std::int64_t row, std::int64_t pixel) { rows.as<double>()[row] = x.as<double>()[pixel]; });
}

void ReferenceBackend::fold(const Patches& p, const Tensor& rows, const Tensor& x) {
  fill(x, 0);
  each_pair(p,
            [&](std::int64_t row, std::int64_t pixel) { x.as<double>()[pixel] += rows.as<double>()[row]; });
}

void ReferenceBackend::pool(PoolKind kind, const Patches& p, const Tensor& x, const Tensor& y) {
  fill(y, kind == PoolKind::mean ? 0 : -INFINITY);
  const double share = 1 / static_cast<double>(p.kernel_height * p.kernel_width);
  each_pair(p, [&](std::int64_t row, std::int64_t pixel) {
    double& to = y.as<double>()[row / p.patch() * p.channels + row % p.channels];
    const double from = x.as<double>()[pixel];
    to = kind == PoolKind::mean ? to + share * from : std::isnan(from) ? from : std::max(to, from);
  });
}

void ReferenceBackend::pool_backward(PoolKind kind, const Patches& p, const Tensor& dy, const Tensor& x,
                                     const Tensor& dx) {
  fill(dx, 0);
  const double share = 1 / static_cast<double>(p.kernel_height * p.kernel_width);
  std::vector<double> top(static_cast<std::size_t>(dy.numel()), -INFINITY);
  std::vector<std::int64_t> place(top.size(), 0);
  each_pair(p, [&](std::int64_t row, std::int64_t pixel) {
    const auto at = static_cast<std::size_t>(row / p.patch() * p.channels + row % p.channels);
    if (kind == PoolKind::mean) dx.as<double>()[pixel] += share * dy.as<double>()[at];
    if (x.as<double>()[pixel] > top[at]) {
      top[at] = x.as<double>()[pixel];
      place[at] = pixel;
    }
  });
  if (kind == PoolKind::mean) return;
  for (std::size_t i = 0; i < top.size(); ++i) dx.as<double>()[place[i]] += dy.as<double>()[i];
}

}  // namespace spectrain
