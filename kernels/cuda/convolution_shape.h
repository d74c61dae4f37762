#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace spectrain {

enum class ConvolutionPass : std::uint8_t {
  forward,          // y [places,N] = unfold(x) . filters^T
  backward_input,   // dx [pixels, channels] = fold(dy . filters)
  backward_filters  // dfilters [N, patch] = dy^T . unfold(x)
};

struct ConvolutionShape {
  Patches patches;
  std::int64_t filters = 0;  // N
  DType dtype = DType::f32;  // bf16 or f32
  bool operator==(const ConvolutionShape&) const = default;
};

}  // namespace spectrain
