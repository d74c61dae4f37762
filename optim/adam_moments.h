#pragma once

#include <cmath>
#include <span>

#include "optim/element_rule.h"

namespace spectrain {

// What Adam and AdamW share as formulas: with state 0 and 1 the running means of g and g^2, t from 1,
//
//   D = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
enum AdamNumbers : std::size_t { kAdamBeta1, kAdamBeta2, kAdamEps, kAdamMean, kAdamRoot, kAdamNumbers };

inline void adam_numbers(const StepContext& c, double beta1, double beta2, double eps, std::span<double> n) {
  const double t = static_cast<double>(c.step + 1);
  n[kAdamBeta1] = beta1;
  n[kAdamBeta2] = beta2;
  n[kAdamEps] = eps;
  n[kAdamMean] = 1 / (1 - std::pow(beta1, t));
  n[kAdamRoot] = 1 / std::sqrt(1 - std::pow(beta2, t));
}

inline Term adam_direction(ElementTerms& t, const Term& g) {
  const auto& n = t.numbers;
  const Term m = n[kAdamBeta1] * t.state[0] + (1 - n[kAdamBeta1]) * g;
  const Term v = n[kAdamBeta2] * t.state[1] + (1 - n[kAdamBeta2]) * square(g);
  t.set_state(0, m);
  t.set_state(1, v);
  return n[kAdamMean] * m / (n[kAdamRoot] * sqrt(v) + n[kAdamEps]);
}

}  // namespace spectrain
