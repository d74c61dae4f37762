#pragma once

#include <cstdint>
#include <cstring>

// Branch-free float functions that the compiler turns into vector code, and bf16 conversion. For files compiled
// per instruction set only (isa.h).

namespace spectrain::SPECTRAIN_ISA {

inline float as_float(std::uint32_t u) {
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline std::uint32_t as_bits(float f) {
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  return u;
}

inline float load(const float* p) { return *p; }
inline float load(const std::uint16_t* p) { return as_float(static_cast<std::uint32_t>(*p) << 16); }
inline void store(float* p, float x) { *p = x; }
// Round to nearest even; NaN stays NaN (a quiet one).
inline void store(std::uint16_t* p, float x) {
  const std::uint32_t u = as_bits(x);
  const std::uint32_t rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const std::uint32_t nan = (u >> 16) | 0x40u;
  *p = static_cast<std::uint16_t>((u & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

// e^x to about 2 ulp: 2^n * p(r), n = round(x log2 e), |r| <= ln2 / 2. Below -87.3 the result is 0, above 88.7 it
// saturates near the largest float; NaN gives NaN.
inline float exp_fast(float x) {
  const float clamped = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
  const float shifted = clamped * 1.44269504088896f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float n = shifted - 12582912.0f;
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const std::int32_t e = static_cast<std::int32_t>(n);
  const float two_n = as_float(static_cast<std::uint32_t>((e > 127 ? 127 : e) + 127) << 23);
  const float y = e > 127 ? p * two_n * 2.0f : p * two_n;
  return x < -87.3f ? 0.0f : (x == x ? y : x);
}

}  // namespace spectrain::SPECTRAIN_ISA
