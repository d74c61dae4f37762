#pragma once

#include <cstdint>
#include <string_view>

#include "optim/option.h"

namespace spectrain {

// How large the step of an [out, in] matrix is: lr * scale * direction. The table converts learning rates:
// the same step is lr * shape_factor, whichever scale.
enum class ShapeScale : std::uint8_t {
  original,   // sqrt(max(1, out / in))           (Jordan 2024)
  match_rms,  // 0.2 sqrt(max(out, in))           (Moonlight, 2502.16982: learning rates of AdamW carry over)
  unit_rms,   // sqrt(out / in)                   (spectral norm condition, Bernstein and Newhouse 2024)
  none,       // 1
};

double shape_factor(ShapeScale scale, std::int64_t out, std::int64_t in);
std::string_view name_of(ShapeScale scale);
void describe_shape_scale(OptionVisitor& v, ShapeScale& scale);  // the option "shape_scale"

}  // namespace spectrain
