#pragma once

#include <math.h>  // fabsf by its global name, which device code has too

#include "kernels/host_device.h"

// Formulas for one float that the processor's kernels and a GPU's share: activations and their derivatives,
// the rotation of a pair. Branch-free, so that a compiler can make vector code of a loop over them.
//
// Where they need more than arithmetic, they take it from Math, a type of the caller's:
//   static float exp(float x);                       0 or infinity beyond float's range; NaN gives NaN
//   static float divide(float a, float b);           a / b
//   static float square_root(float x);
// It also keeps the instances apart that are compiled for several instruction sets (cpu/isa/isa.h).
// How exact Math must be is what tests/kernels/activation_test.cpp allows. NaN gives NaN.

namespace spectrain {

// x or the nearer end of [-limit, limit]; NaN stays NaN.
template <class Math>
SPECTRAIN_HD inline float clamped(float x, float limit) {
  return x > limit ? limit : (x < -limit ? -limit : x);
}

// The tail Phi(-a) of the normal distribution for a >= 0: e^(-a^2/2) t P(t), t = 1 / (1 + 0.3 a), where P is
// our own minimax fit of the scaled tail on a in [0, 14] (3.5e-9). Relative error about (4 + a^2 / 2) ulp,
// because the exponent itself is rounded.
template <class Math>
SPECTRAIN_HD inline float normal_tail(float a, float density_exponential) {
  const float t = Math::divide(1.0f, 1.0f + 0.3f * a);
  float p = -0x1.51b7bap-6f;
  p = p * t + 0x1.cc499ep-4f;
  p = p * t - 0x1.d31414p-3f;
  p = p * t + 0x1.885ad2p-3f;
  p = p * t - 0x1.44972cp-4f;
  p = p * t + 0x1.89732ap-4f;
  p = p * t + 0x1.413b68p-4f;
  p = p * t + 0x1.c37db0p-4f;
  p = p * t + 0x1.e9c538p-4f;
  p = p * t + 0x1.ea3c88p-4f;
  return density_exponential * (t * p);
}

template <class Math>
SPECTRAIN_HD inline float activate_none(float x) {
  return x;
}
template <class Math>
SPECTRAIN_HD inline float slope_none(float) {
  return 1.0f;
}

template <class Math>
SPECTRAIN_HD inline float activate_gelu(float x) {
  const float tail = normal_tail<Math>(fabsf(x), Math::exp(-0.5f * x * x));
  return x * (x < 0.0f ? tail : 1.0f - tail);
}
template <class Math>
SPECTRAIN_HD inline float slope_gelu(float x) {
  const float e = Math::exp(-0.5f * x * x), tail = normal_tail<Math>(fabsf(x), e);
  return (x < 0.0f ? tail : 1.0f - tail) + x * 0.3989422804f * e;
}

// 0.5 x (1 + tanh u) = x sigmoid(2u): no cancellation for negative x.
template <class Math>
SPECTRAIN_HD inline float activate_gelu_tanh(float x) {
  const float u2 = x * (1.5957691216f + 0.0713548162726f * x * x);
  return Math::divide(x, 1.0f + Math::exp(-u2));
}
template <class Math>
SPECTRAIN_HD inline float slope_gelu_tanh(float v) {
  // Beyond 9.5 the slope is within 1e-30 of 0 or 1; without the clamp x^2 of a huge x, or e^-2u of a lesser
  // one, would make infinity times zero.
  const float x = clamped<Math>(v, 9.5f);
  const float u2 = x * (1.5957691216f + 0.0713548162726f * x * x);
  const float e = Math::exp(-u2), s = Math::divide(1.0f, 1.0f + e);
  return s + x * s * (e * s) * (1.5957691216f + 0.2140644488178f * x * x);
}

// max(x, 0)^2, written so that NaN survives.
template <class Math>
SPECTRAIN_HD inline float activate_relu2(float x) {
  const float r = x < 0.0f ? 0.0f : x;
  return r * r;
}
// From the OUTPUT y.
template <class Math>
SPECTRAIN_HD inline float slope_relu2(float y) {
  return 2.0f * Math::square_root(y);
}

template <class Math>
SPECTRAIN_HD inline float activate_relu(float x) {
  return x < 0.0f ? 0.0f : x;
}
// From the OUTPUT y.
template <class Math>
SPECTRAIN_HD inline float slope_relu(float y) {
  return y > 0.0f ? 1.0f : 0.0f;
}

template <class Math>
SPECTRAIN_HD inline float activate_sigmoid(float x) {
  return Math::divide(1.0f, 1.0f + Math::exp(-x));
}
// From the OUTPUT y.
template <class Math>
SPECTRAIN_HD inline float slope_sigmoid(float y) {
  return y * (1.0f - y);
}

// x sigmoid(x), and what its derivative is made of.
template <class Math>
SPECTRAIN_HD inline float silu(float x) {
  return Math::divide(x, 1.0f + Math::exp(-x));
}
struct SigmoidAndSlope {
  float sigmoid, silu_slope;
};
// The slope is s (1 + x (1 - s)), with 1 - s = e s where e = e^-x. Beyond 80 it is within 1e-30 of 0 or 1.
template <class Math>
SPECTRAIN_HD inline SigmoidAndSlope sigmoid_and_slope(float v) {
  const float x = clamped<Math>(v, 80.0f);
  const float e = Math::exp(-x), s = Math::divide(1.0f, 1.0f + e);
  return {s, s + x * s * (e * s)};
}

// (a, b) -> (a c - b s, a s + b c)
template <class Math>
SPECTRAIN_HD inline void rotate_pair(float& a, float& b, float c, float s) {
  const float turned = a * c - b * s;
  b = a * s + b * c;
  a = turned;
}

}  // namespace spectrain
