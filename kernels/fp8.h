#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

// Eight-bit floats (Micikevicius et al., "FP8 formats for deep learning", 2022; OCP 8-bit floating point
// specification). Numbers that were rounded to them are kept in wider types here: every such number is exact
// in bf16, and a product of two is exact in f32.

namespace spectrain {

enum class Fp8 : std::uint8_t {
  e4m3,  // 3 bits of mantissa, normal from 2^-6, largest 448
  e5m2,  // 2 bits of mantissa, normal from 2^-14, largest 57344
};

struct Fp8Limits {
  int mantissa;
  float smallest_normal, quantum, largest;  // quantum: the step below smallest_normal
};
SPECTRAIN_HD constexpr Fp8Limits limits_of(Fp8 format) {
  return format == Fp8::e4m3 ? Fp8Limits{3, 0x1p-6f, 0x1p-9f, 448.0f}
                             : Fp8Limits{2, 0x1p-14f, 0x1p-16f, 57344.0f};
}

// x to the nearest number of the format, ties to even; beyond the largest, infinity included, the largest.
// NaN stays NaN.
SPECTRAIN_HD inline float fp8_rounded(const Fp8Limits& f, float x) {
  const float size = x < 0.0f ? -x : x;
  float y;
  if (size < f.smallest_normal) {
    const float shift = f.quantum * 12582912.0f;  // 1.5 2^23 quanta: the last bit of the sum is worth one
    y = (x + shift) - shift;
  } else {
    std::uint32_t u;
    std::memcpy(&u, &x, 4);
    const int dropped = 23 - f.mantissa;
    const std::uint32_t half = (1u << (dropped - 1)) - 1u + ((u >> dropped) & 1u);
    if ((u & 0x7f800000u) != 0x7f800000u) u = (u + half) & ~((1u << dropped) - 1u);
    std::memcpy(&y, &u, 4);
  }
  return y > f.largest ? f.largest : (y < -f.largest ? -f.largest : y);
}

}  // namespace spectrain
