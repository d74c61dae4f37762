#pragma once

#include "kernels/backend.h"
#include "kernels/formulas_update.h"

namespace spectrain {

// rates: AdamWStep::rates(). Every factor is rounded once, from double: 1 - beta^step cancels in float.
inline AdamWFactors adamw_factors(const AdamWStep& s, double gradient_scale, const double* rates) {
  AdamWFactors f;
  f.gradient_scale = static_cast<float>(gradient_scale);
  f.beta1 = static_cast<float>(s.beta1);
  f.rest1 = static_cast<float>(1 - s.beta1);
  f.beta2 = static_cast<float>(s.beta2);
  f.rest2 = static_cast<float>(1 - s.beta2);
  f.eps = static_cast<float>(s.eps);
  set_rates(f, s.weight_decay, rates);
  return f;
}

}  // namespace spectrain
