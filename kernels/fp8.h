#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

// Eight-bit floats (Micikevicius et al., "FP8 formats for deep learning", 2022; OCP 8-bit floating point
// specification). Every number of them is exact in bf16, and a product of two is exact in f32: a backend
// whose hardware does not multiply them rounds to them and multiplies in a wider type (backend_model.h).

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

// The eight bits of fp8_rounded(x): sign, exponent, mantissa. A zero keeps the sign of x, as in hardware, and
// every NaN becomes 0x7f (hardware may make another).
SPECTRAIN_HD inline std::uint8_t fp8_bits(Fp8 format, float x) {
  if (x != x) return 0x7f;
  const Fp8Limits f = limits_of(format);
  std::uint32_t sign, u, first;
  std::memcpy(&sign, &x, 4);
  sign = (sign >> 24) & 0x80u;
  const float size = fp8_rounded(f, x < 0.0f ? -x : x);
  if (size < f.smallest_normal)
    return static_cast<std::uint8_t>(sign | static_cast<unsigned>(size / f.quantum));
  std::memcpy(&u, &size, 4);
  std::memcpy(&first, &f.smallest_normal, 4);  // whose exponent is written 1
  const int dropped = 23 - f.mantissa;
  return static_cast<std::uint8_t>(sign | ((u >> dropped) - (first >> dropped) + (1u << f.mantissa)));
}

// The number that eight bits stand for.
SPECTRAIN_HD inline float fp8_value(Fp8 format, std::uint8_t bits) {
  const Fp8Limits f = limits_of(format);
  const std::uint32_t size = bits & 0x7fu, sign = (bits & 0x80u) << 24;
  const std::uint32_t infinity = format == Fp8::e5m2 ? 0x7cu : 0x7fu;  // e4m3 has none
  std::uint32_t u;
  if (size >= infinity) {
    u = format == Fp8::e5m2 && size == infinity ? 0x7f800000u : 0x7fc00000u;
  } else if (size < (1u << f.mantissa)) {
    const float small = static_cast<float>(size) * f.quantum;
    std::memcpy(&u, &small, 4);
  } else {
    std::uint32_t first;
    std::memcpy(&first, &f.smallest_normal, 4);
    u = first + ((size - (1u << f.mantissa)) << (23 - f.mantissa));
  }
  u |= sign;
  float value;
  std::memcpy(&value, &u, 4);
  return value;
}

}  // namespace spectrain
