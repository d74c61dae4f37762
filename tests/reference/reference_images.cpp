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

}  // namespace spectrain
