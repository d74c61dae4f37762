#pragma once

#include <math.h>  // sqrtf by its global name, which device code has too

#include "kernels/host_device.h"

// One element of each update rule, the same text for the processor and a GPU. The functions are static, not
// merely inline: each instruction set of the processor needs its own copy (cpu/isa/isa.h).

namespace spectrain {

// By the norm, not its square, and only ever downward.
SPECTRAIN_HD static inline double clip_factor_of(double squares, double clip) {
  const double norm = sqrt(squares);
  return clip > 0 && norm > clip ? clip / norm : 1;
}

struct AdamWFactors {
  float gradient_scale = 1;
  float beta1 = 0, rest1 = 0, beta2 = 0, rest2 = 0;  // rest = 1 - beta, rounded once from double
  float decay = 0;                                   // lr * weight_decay
  float step = 0;                                    // lr / (1 - beta1^t)
  float root = 0;                                    // 1 / sqrt(1 - beta2^t)
  float eps = 0;
};

// rates: lr, 1 - beta1^t, 1 - beta2^t
SPECTRAIN_HD static inline void set_rates(AdamWFactors& f, double weight_decay, const double* rates) {
  f.decay = static_cast<float>(rates[0] * weight_decay);
  f.step = static_cast<float>(rates[0] / rates[1]);
  f.root = static_cast<float>(1 / sqrt(rates[2]));
}

SPECTRAIN_HD static inline void adamw_element(const AdamWFactors& f, float& w, float g, float& m, float& v) {
  const float gradient = f.gradient_scale * g;
  m = f.beta1 * m + f.rest1 * gradient;
  v = f.beta2 * v + f.rest2 * (gradient * gradient);
  // The change is summed before it meets the weight: 1 - lr decay as a float would be wrong by up to 6e-8, a
  // large part of a decay of 1e-6.
  w -= f.decay * w + f.step * m / (sqrtf(v) * f.root + f.eps);
}

// Returns u. rest = 1 - mu, rounded once from double.
SPECTRAIN_HD static inline float ema_element(float g, float gradient_scale, float mu, float rest,
                                             bool nesterov, float& m) {
  const float gradient = rest * (gradient_scale * g);
  m = mu * m + gradient;
  return nesterov ? mu * m + gradient : m;
}

// w = keep w - step u, with the factor that a float holds best: keep is nearly 1 in training, and as a float
// would lose up to a tenth of a decay of 1e-6; the decay itself loses nothing. Far from 1 the direct form is
// the exact one.
struct KeepFactor {
  bool shrinks = false;  // w - (factor w + step u); otherwise factor w - step u
  float factor = 0;
};
SPECTRAIN_HD static inline KeepFactor keep_factor(double keep) {
  const bool nearly_one = fabs(1 - keep) < 0.5;
  return {nearly_one, static_cast<float>(nearly_one ? 1 - keep : keep)};
}

SPECTRAIN_HD static inline float shrink_and_step_element(float w, float decay, float step, float u) {
  return w - (decay * w + step * u);
}
SPECTRAIN_HD static inline float keep_and_step_element(float w, float keep, float step, float u) {
  return keep * w - step * u;
}

}  // namespace spectrain
