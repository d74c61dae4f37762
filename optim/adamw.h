#pragma once

#include "optim/rule_options.h"

namespace spectrain {

// AdamW (Kingma, Ba 2015, 1412.6980; decoupled decay: Loshchilov, Hutter 2019, 1711.05101). Element-wise, t
// from 1:
//
//   m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
//   w = w (1 - lr decay) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//
// Defaults: lr 1e-3, betas 0.9 and 0.95, eps 1e-8, decay 0. The decay is of the scheduled lr.
// State: 2 numbers per parameter (adam_m, adam_v). Cost: about 15 FLOPs per parameter; bound by memory: a
// kernel of its own (OptimizerKernels::adamw) unless the finish asks for more than decoupled decay.
struct AdamWOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  bool operator==(const AdamWOptions&) const = default;
};
const RuleInfo& info_of(const AdamWOptions&);
void describe_options(OptionVisitor& v, AdamWOptions& o);
std::unique_ptr<UpdateRule> make_rule(const AdamWOptions& options, const FinishOptions& finish);

}  // namespace spectrain
