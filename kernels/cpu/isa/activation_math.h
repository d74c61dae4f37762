#pragma once

#include <cmath>

#include "kernels/cpu/isa/vector_math.h"

// Activations and their derivatives for one float, branch-free: an element-wise loop or the epilogue of a
// matrix product vectorises them. Errors are relative to max(|result|, 1e-30) and measured over every
// magnitude in tests/kernels/activation_test.cpp; NaN gives NaN.

namespace spectrain::SPECTRAIN_ISA {

// 1 / (1 + e^-x), about 3 ulp.
inline float sigmoid_fast(float x) { return 1.0f / (1.0f + exp_fast(-x)); }

// tanh x, about 3 ulp: an odd polynomial (minimax on [0, 0.625], our own fit) near 0, where 1 - 2 / (e^2x +
// 1) would cancel.
inline float tanh_fast(float x) {
  const float a = as_float(as_bits(x) & 0x7fffffffu), z = x * x;
  float p = -0x1.76abbep-8f;
  p = p * z + 0x1.5256c4p-6f;
  p = p * z - 0x1.b84446p-5f;
  p = p * z + 0x1.110768p-3f;
  p = p * z - 0x1.555534p-2f;
  const float small = x + x * z * p;
  const float big = 1.0f - 2.0f / (exp_fast(2.0f * a) + 1.0f);
  const float signed_big = as_float(as_bits(big) | (as_bits(x) & 0x80000000u));
  return a < 0.625f ? small : signed_big;
}

// The tail Phi(-a) of the normal distribution for a >= 0: e^(-a^2/2) t P(t), t = 1 / (1 + 0.3 a), where P is
// our own minimax fit of the scaled tail on a in [0, 14] (3.5e-9). Relative error about (4 + a^2 / 2) ulp,
// because the exponent itself is rounded.
inline float normal_tail(float a, float density_exponential) {
  const float t = 1.0f / (1.0f + 0.3f * a);
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

inline float activate_none(float x) { return x; }

inline float activate_gelu(float x) {
  const float a = as_float(as_bits(x) & 0x7fffffffu);
  const float tail = normal_tail(a, exp_fast(-0.5f * x * x));
  return x * (x < 0.0f ? tail : 1.0f - tail);
}
inline float slope_gelu(float x) {
  const float a = as_float(as_bits(x) & 0x7fffffffu);
  const float e = exp_fast(-0.5f * x * x), tail = normal_tail(a, e);
  return (x < 0.0f ? tail : 1.0f - tail) + x * 0.3989422804f * e;
}

// 0.5 x (1 + tanh u) = x sigmoid(2u): no cancellation for negative x.
inline float activate_gelu_tanh(float x) {
  const float u2 = x * (1.5957691216f + 0.0713548162726f * x * x);
  return x / (1.0f + exp_fast(-u2));
}
inline float slope_gelu_tanh(float v) {
  // Beyond 12 the slope is 0 or 1 in float; without the clamp x^2 of a huge x would make infinity times zero.
  const float x = v > 12.0f ? 12.0f : (v < -12.0f ? -12.0f : v);
  const float u2 = x * (1.5957691216f + 0.0713548162726f * x * x);
  const float e = exp_fast(-u2), s = 1.0f / (1.0f + e);
  return s + x * s * (e * s) * (1.5957691216f + 0.2140644488178f * x * x);
}

// max(x, 0)^2, written so that NaN survives.
inline float activate_relu2(float x) {
  const float r = x < 0.0f ? 0.0f : x;
  return r * r;
}
// From the OUTPUT y.
inline float slope_relu2(float y) { return 2.0f * std::sqrt(y); }

inline float silu(float x) { return x / (1.0f + exp_fast(-x)); }
// s (1 + x (1 - s)), with 1 - s = e s where e = e^-x.
inline float slope_silu(float x) {
  const float e = exp_fast(-x), s = 1.0f / (1.0f + e);
  return s + x * s * (e * s);
}

}  // namespace spectrain::SPECTRAIN_ISA
