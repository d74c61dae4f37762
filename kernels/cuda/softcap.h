#pragma once

#include "kernels/backend.h"
#include "kernels/cuda/fast_math.h"

// The softcaps of logits as device functions. Only for .cu files.
//
// at(z) gives the capped value of a logit in the cap's own units (where it lies in [-1, 1], if there is a
// cap), and its slope. The slopes come from the logit and not from the value: near the cap 1 - (value /
// cap)^2 has no digits left. exponent(a, pivot(b)) is log2 of e^(value of a - value of b) for values a, b in
// units: one instruction, whatever the cap. natural is what one unit is worth.

namespace spectrain {

constexpr double kLog2E = 1.4426950408889634;

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
  static constexpr float kLowest = -3.4028235e38f;  // finite: logits of -inf then have weight zero, not NaN
  static constexpr float natural = 1;
  explicit NoCap(const Softcap&) {}
  // The difference first: logits of any size are allowed here.
  __device__ float pivot(float units) const { return units; }
  __device__ float exponent(float units, float pivot) const {
    return (units - pivot) * static_cast<float>(kLog2E);
  }
  template <class Math>
  __device__ Capped at(float z) const {
    return {z, 1.0f};
  }
};

struct BoundedCap {
  static constexpr float kLowest = -2;
  float natural, binary;
  explicit BoundedCap(const Softcap& c)
      : natural(static_cast<float>(c.cap)), binary(static_cast<float>(c.cap * kLog2E)) {}
  __device__ float pivot(float units) const { return units * binary; }
  __device__ float exponent(float units, float pivot) const { return fmaf(units, binary, -pivot); }
};

struct TanhCap : BoundedCap {
  float steepness;
  explicit TanhCap(const Softcap& c) : BoundedCap(c), steepness(static_cast<float>(-2 * kLog2E / c.cap)) {}
  template <class Math>
  __device__ Capped at(float z) const {
    const float e = Math::exp2(fabsf(z) * steepness), d = Math::reciprocal(1.0f + e);
    return {copysignf((1.0f - e) * d, z), 4.0f * e * d * d};
  }
};

struct SigmoidCap : BoundedCap {
  float inverse, offset, steepness;
  explicit SigmoidCap(const Softcap& c)
      : BoundedCap(c),
        inverse(static_cast<float>(kLog2E / c.divisor)),
        offset(static_cast<float>(c.offset)),
        steepness(static_cast<float>(c.cap / c.divisor)) {}
  template <class Math>
  __device__ Capped at(float z) const {
    const float x = (z + offset) * inverse;
    const float e = Math::exp2(-fabsf(x)), d = Math::reciprocal(1.0f + e);
    return {(x < 0 ? e : 1.0f) * d, steepness * e * d * d};
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

struct RationalCap : BoundedCap {
  float inverse;
  explicit RationalCap(const Softcap& c) : BoundedCap(c), inverse(static_cast<float>(1 / c.cap)) {}
  template <class Math>
  __device__ Capped at(float z) const {
    // Beyond 1e9 caps the value is the cap to the last bit; the square would overflow later.
    const float u = clamped(z * inverse, 1e9f), r = Math::reciprocal_root(fmaf(u, u, 1.0f));
    return {u * r, r * r * r};
  }
};

}  // namespace spectrain
