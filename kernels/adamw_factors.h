#pragma once

#include <cmath>

#include "kernels/backend.h"
#include "kernels/formulas_update.h"

namespace spectrain {

// Every factor is rounded once, from double: 1 - beta^step cancels in float.
inline AdamWFactors adamw_factors(const AdamWStep& s) {
  const double t = static_cast<double>(s.step);
  AdamWFactors f;
  f.gradient_scale = static_cast<float>(s.gradient_scale.value);
  f.beta1 = static_cast<float>(s.beta1);
  f.rest1 = static_cast<float>(1 - s.beta1);
  f.beta2 = static_cast<float>(s.beta2);
  f.rest2 = static_cast<float>(1 - s.beta2);
  f.decay = static_cast<float>(s.lr * s.weight_decay);
  f.step = static_cast<float>(s.lr / (1 - std::pow(s.beta1, t)));
  f.root = static_cast<float>(1 / std::sqrt(1 - std::pow(s.beta2, t)));
  f.eps = static_cast<float>(s.eps);
  return f;
}

// w = keep w - step u, with the factor that a float holds best: keep is nearly 1 in training, and as a float
// would lose up to a tenth of a decay of 1e-6; the decay itself loses nothing. Far from 1 the direct form is
// the exact one.
struct KeepFactor {
  bool shrinks = false;  // w - (factor w + step u); otherwise factor w - step u
  float factor = 0;
};
inline KeepFactor keep_factor(double keep) {
  const bool nearly_one = std::abs(1 - keep) < 0.5;
  return {nearly_one, static_cast<float>(nearly_one ? 1 - keep : keep)};
}

}  // namespace spectrain
