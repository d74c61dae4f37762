#include <fmt/format.h>

#include "kernels/error.h"
#include "optim/check_option.h"
#include "optim/element_rule.h"
#include "optim/registry.h"

namespace spectrain {

// SGD with momentum (Polyak 1964; Sutskever et al. 2013), g' = g + l2 w:
//
//   b = g' at step 0, then b = mu b + (1 - dampening) g'
//   D = b, with Nesterov g' + mu b, without momentum g'            W = (1 - lr decay) W - lr D
//
// That is torch.optim.SGD, whose weight_decay is `l2` here (coupled: part of the gradient). Defaults: lr
// 1e-3, mu 0, no damping. State: 1 number per parameter (momentum), 0 without momentum. Bound by memory.
struct SgdOptions {
  double lr = 1e-3, weight_decay = 0, momentum = 0, dampening = 0, l2 = 0;
  bool nesterov = false;
  bool operator==(const SgdOptions&) const = default;
};

const RuleInfo& info_of(const SgdOptions&) {
  static const RuleInfo info{"sgd", "b = mu b + (1 - dampening) g;  w -= lr (nesterov ? g + mu b : b)",
                             "Robbins and Monro 1951; Polyak 1964; Sutskever et al. 2013"};
  return info;
}

void describe_options(OptionVisitor& v, SgdOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("l2", &o.l2, at_least(0), "coupled decay: g + l2 w takes the gradient's place");
  v.field("momentum", &o.momentum, below_one(), "of the sum of gradients; 0: none, and no state");
  v.field("dampening", &o.dampening, within(0, 1), "1 - dampening is the gradient's weight in the sum");
  v.field("nesterov", &o.nesterov, {}, "look one step ahead");
}

std::unique_ptr<UpdateRule> make_rule(const SgdOptions& o, const FinishOptions& finish) {
  check_options("sgd", o);
  if (o.nesterov && (o.momentum == 0 || o.dampening != 0))
    throw RequestError("sgd: nesterov needs a momentum above 0 and no dampening");
  ElementRuleSettings s{"sgd", fmt::format("momentum {}{}", o.momentum, o.nesterov ? " nesterov" : ""), o.lr,
                        o.weight_decay};
  if (o.dampening > 0) s.settings += fmt::format(", dampening {}", o.dampening);
  if (o.l2 > 0) s.settings += fmt::format(", l2 {}", o.l2);
  const bool remembers = o.momentum > 0;
  if (remembers) s.state = {"momentum"};
  enum { kMomentum, kFresh, kL2, kNumbers };
  s.numbers = kNumbers;
  s.numbers_at = [o](const StepContext& c, std::span<double> n) {
    n[kMomentum] = o.momentum;
    n[kFresh] = c.step == 0 ? 1 : 1 - o.dampening;
    n[kL2] = o.l2;
  };
  s.direction = [remembers, nesterov = o.nesterov](ElementTerms& t) {
    const Term g = t.gradient + t.numbers[kL2] * t.weight;
    if (!remembers) return g;
    const Term b = t.numbers[kMomentum] * t.state[0] + t.numbers[kFresh] * g;
    t.set_state(0, b);
    return nesterov ? g + t.numbers[kMomentum] * b : b;
  };
  s.flops = 6;
  return std::make_unique<ElementRule>(std::move(s), finish);
}

RuleOptions sgd() { return SgdOptions{}; }

}  // namespace spectrain
