#include "optim/shape_scale.h"

#include <algorithm>
#include <cmath>

namespace spectrain {
namespace {

constexpr Word<ShapeScale> kScales[] = {{"original", ShapeScale::original},
                                        {"match_rms", ShapeScale::match_rms},
                                        {"unit_rms", ShapeScale::unit_rms},
                                        {"none", ShapeScale::none}};

}  // namespace

double shape_factor(ShapeScale scale, std::int64_t out, std::int64_t in) {
  const double m = static_cast<double>(out), n = static_cast<double>(in);
  switch (scale) {
    case ShapeScale::original:
      return std::sqrt(std::max(1.0, m / n));
    case ShapeScale::match_rms:
      return 0.2 * std::sqrt(std::max(m, n));
    case ShapeScale::unit_rms:
      return std::sqrt(m / n);
    case ShapeScale::none:
      return 1;
  }
  return 1;
}

std::string_view name_of(ShapeScale scale) { return word_of(kScales, scale); }

void describe_shape_scale(OptionVisitor& v, ShapeScale& scale) {
  v.field(
      "shape_scale", choice(scale, kScales), {},
      "original: sqrt(max(1, out/in)); match_rms: 0.2 sqrt(max(out, in)); unit_rms: sqrt(out/in); none: 1");
}

}  // namespace spectrain
