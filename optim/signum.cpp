#include <fmt/format.h>

#include <cmath>

#include "kernels/error.h"
#include "optim/check_option.h"
#include "optim/element_rule.h"
#include "optim/registry.h"

namespace spectrain {

// Signum (Bernstein et al. 2018, 1802.04434); with momentum 0 it is SignSGD:
//
//   m = mu m + (1 - mu) g        D = sign(m), with Nesterov sign(mu m + (1 - mu) g)      sign(0) = 0
//   W = (1 - lr decay) W - lr D
//
// Defaults: lr 1e-3, mu 0.9 (signsgd: lr 1e-4, 0). A constant factor on m, such as a bias correction, changes
// nothing. State: 1 number per parameter (momentum), 0 without momentum. Bound by memory.
struct SignumOptions {
  double lr = 1e-3, weight_decay = 0, momentum = 0.9;
  bool nesterov = false;
  bool operator==(const SignumOptions&) const = default;
};

const RuleInfo& info_of(const SignumOptions&) {
  static const RuleInfo info{"signum", "m = mu m + (1 - mu) g;  w -= lr (sign(m) + decay w)",
                             "Bernstein et al. 2018 (1802.04434); momentum 0: SignSGD"};
  return info;
}

void describe_options(OptionVisitor& v, SignumOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate: how far every number moves in a step");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("momentum", &o.momentum, below_one(), "of the mean of gradients; 0: SignSGD, without state");
  v.field("nesterov", &o.nesterov, {}, "look one step ahead");
}

std::unique_ptr<UpdateRule> make_rule(const SignumOptions& o, const FinishOptions& finish) {
  check_options("signum", o);
  ElementRuleSettings s{"signum", fmt::format("momentum {}{}", o.momentum, o.nesterov ? " nesterov" : ""),
                        o.lr, o.weight_decay};
  const bool remembers = o.momentum > 0;
  if (remembers) s.state = {"momentum"};
  s.numbers = 1;
  s.numbers_at = [o](const StepContext&, std::span<double> n) { n[0] = o.momentum; };
  s.direction = [remembers, nesterov = o.nesterov](ElementTerms& t) {
    if (!remembers) return sign(t.gradient);
    const Term mu = t.numbers[0], m = mu * t.state[0] + (1 - mu) * t.gradient;
    t.set_state(0, m);
    return sign(nesterov ? mu * m + (1 - mu) * t.gradient : m);
  };
  s.flops = 4;
  return std::make_unique<ElementRule>(std::move(s), finish);
}

RuleOptions signum() { return SignumOptions{}; }

}  // namespace spectrain
