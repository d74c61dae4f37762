#pragma once

#include "optim/rule_options.h"

// Every rule, a line each, in the order in which users see them. The name is a function, in the rule's file,
// that returns the rule's options with their defaults.
// clang-format off
#define SPECTRAIN_RULES(rule) \
  rule(sgd) \
  rule(signum) \
  rule(lion) \
  rule(adam) \
  rule(adamw) \
  rule(ademamix) \
  rule(adafactor) \
  rule(sophia) \
  rule(muon) \
  rule(adamuon) \
  rule(dion2) \
  rule(normuon) \
  rule(scion) \
  rule(shampoo) \
  rule(soap) \
  rule(spectral_descent)
// clang-format on

namespace spectrain {

#define SPECTRAIN_DECLARE_RULE(name) RuleOptions name();
SPECTRAIN_RULES(SPECTRAIN_DECLARE_RULE)
#undef SPECTRAIN_DECLARE_RULE

}  // namespace spectrain
