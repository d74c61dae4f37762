#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/fast_math.h"

// The softcaps of logits as device functions. Only for .cu files.
//
// Each gives the capped value of a logit in units in which weights are powers of two, and the slope of the
// cap in natural units: e^(value(a) - value(b)) = 2^((units(a) - units(b)) kBinary). The slopes come from the
// logit and not from the value: near the cap 1 - (value / cap)^2 has no digits left.

namespace spectrain {

constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;

struct FastMath {
  __device__ static float exp2(float x) { return fast_exp2(x); }
  __device__ static float reciprocal(float x) { return fast_reciprocal(x); }
  __device__ static float reciprocal_root(float x) { return fast_reciprocal_root(x); }
};
struct ExactMath {
  __device__ static float exp2(float x) { return exp2f(x); }
  __device__ static float reciprocal(float x) { return 1.0f / x; }
  __device__ static float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
};

struct Capped {
  float units, slope;
};

struct NoCap {
  static constexpr float kBinary = kLog2E, kNatural = 1;  // a difference of units as a power of two, of e
  explicit NoCap(const Softcap&) {}
  template <class Math>
  __device__ Capped at(float z) const {
    return {z, 1.0f};
  }
};

struct TanhCap {
  static constexpr float kBinary = 1, kNatural = kLn2;
  float cap, steepness;
  explicit TanhCap(const Softcap& c)
      : cap(static_cast<float>(c.cap * kLog2E)), steepness(static_cast<float>(-2 * kLog2E / c.cap)) {}
  template <class Math>
  __device__ Capped at(float z) const {
    const float e = Math::exp2(fabsf(z) * steepness), d = Math::reciprocal(1.0f + e);
    return {copysignf(cap * (1.0f - e) * d, z), 4.0f * e * d * d};
  }
};

struct SigmoidCap {
  static constexpr float kBinary = 1, kNatural = kLn2;
  float cap, inverse, offset, steepness;
  explicit SigmoidCap(const Softcap& c)
      : cap(static_cast<float>(c.cap * kLog2E)),
        inverse(static_cast<float>(kLog2E / c.divisor)),
        offset(static_cast<float>(c.offset)),
        steepness(static_cast<float>(c.cap / c.divisor)) {}
  template <class Math>
  __device__ Capped at(float z) const {
    const float x = (z + offset) * inverse;
    const float e = Math::exp2(-fabsf(x)), d = Math::reciprocal(1.0f + e);
    return {cap * (x < 0 ? e : 1.0f) * d, steepness * e * d * d};
  }
};

// x within [-limit, limit]; NaN passes.
__device__ inline float clamped(float x, float limit) {
#ifdef __CUDA_ARCH__
  float y;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(x), "f"(limit));
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(y), "f"(-limit));
  return y;
#else
  return x > limit ? limit : (x < -limit ? -limit : x);
#endif
}

struct RationalCap {
  static constexpr float kBinary = 1, kNatural = kLn2;
  float cap, inverse;
  explicit RationalCap(const Softcap& c)
      : cap(static_cast<float>(c.cap * kLog2E)), inverse(static_cast<float>(1 / c.cap)) {}
  template <class Math>
  __device__ Capped at(float z) const {
    // Beyond 1e9 caps the value is the cap to the last bit; the square would overflow later.
    const float u = clamped(z * inverse, 1e9f), r = Math::reciprocal_root(fmaf(u, u, 1.0f));
    return {cap * u * r, r * r * r};
  }
};

}  // namespace spectrain
