#pragma once

#include <cstdint>
#include <vector>

#include "model/transformer.h"

namespace spectrain {

// How fast each pair of a head turns, in radians per position: [head_dim / 2] (Su et al. 2021, "RoFormer").
// n = round(rotary_fraction * head_dim / 2), at least 1, pairs turn; pair i < n has
//   base^-(i / n)             (with n = head_dim / 2 this is the published base^-(2i / head_dim)), or
//   base^-(i / (n - 1))       when rotary_to_end: base^-linspace(0, 1, n), whose slowest pair has exactly 1 /
//   base.
// The others have 0: their content passes unturned at every position (modded-nanogpt record 17's
// half-truncated RoPE is base 1024, fraction 0.5, rotary_to_end, head_dim 128: 32 pairs turn and 32 rest). c
// must be resolved().
std::vector<double> rotary_frequencies(const TransformerConfig& c);

// Cosines and sines of position * frequency, each [context, head_dim / 2], computed in double: at position
// 10^5 a float32 angle is already wrong in its third digit.
struct RotaryTable {
  std::vector<double> cos, sin;
};
RotaryTable rotary_table(const TransformerConfig& c, std::int64_t context);

}  // namespace spectrain
