#pragma once

#include "kernels/random.h"
#include "kernels/tensor.h"

namespace spectrain {

// x to one of the two bf16 numbers around it, to the farther one from zero with the probability of how far x
// is on its way there: on average over `random`, 16 uniform bits, x itself. Numbers that bf16 has stay, and
// so do infinity and NaN. bf16 is float32 without its last 16 bits, so that the probability is exact: those
// bits over 2^16 (Gupta et al., "Deep learning with limited numerical precision", 2015).
SPECTRAIN_HD inline bf16 round_stochastic(float x, std::uint32_t random) {
  std::uint32_t u;
  std::memcpy(&u, &x, 4);
  if ((u & 0x7f800000u) == 0x7f800000u) return bf16(x);
  bf16 y;
  y.bits = static_cast<std::uint16_t>((u + random) >> 16);
  return y;
}

// The 16 bits of element `index`: eight elements share a block of random numbers.
SPECTRAIN_HD inline std::uint32_t random_u16(const Random4& block, std::uint64_t index) {
  return (block.v[(index >> 1) & 3] >> (index & 1 ? 16 : 0)) & 0xffffu;
}
SPECTRAIN_HD inline std::uint32_t random_u16(RandomKey key, std::uint64_t index) {
  return random_u16(philox(key, index >> 3), index);
}

}  // namespace spectrain
