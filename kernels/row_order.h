#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

namespace spectrain {

// Whole numbers in the order of scores: a higher score has a higher key, 0 and -0 the same, and NaN the
// lowest of all, so that a row without a score is chosen last.
SPECTRAIN_HD inline std::uint32_t score_key(float score) {
  std::uint32_t bits;
  std::memcpy(&bits, &score, 4);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0;
  if ((bits & 0x7fffffffu) == 0) bits = 0;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;  // -infinity becomes 0x007fffff, above NaN
}

}  // namespace spectrain
