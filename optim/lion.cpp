#include <fmt/format.h>

#include "kernels/error.h"
#include "optim/check_option.h"
#include "optim/element_rule.h"
#include "optim/registry.h"

namespace spectrain {

// Lion (Chen et al. 2023, 2302.06675):
//
//   D = sign(b1 m + (1 - b1) g)      W = (1 - lr decay) W - lr D      m = b2 m + (1 - b2) g
//
// Defaults: lr 1e-4, betas 0.9 and 0.99, decay 0. The authors take an lr 3 to 10 times below AdamW's and a
// decay as much above. State: 1 number per parameter (momentum). Bound by memory.
struct LionOptions {
  double lr = 1e-4, weight_decay = 0, beta1 = 0.9, beta2 = 0.99;
  bool operator==(const LionOptions&) const = default;
};

const RuleInfo& info_of(const LionOptions&) {
  static const RuleInfo info{"lion", "w -= lr (sign(b1 m + (1 - b1) g) + decay w);  m = b2 m + (1 - b2) g",
                             "Chen et al. 2023 (2302.06675)"};
  return info;
}

void describe_options(OptionVisitor& v, LionOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate: how far every number moves in a step");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("betas", Tuple{{&o.beta1, &o.beta2}}, below_one(),
          "the mean's share in the sign, and its decay from step to step");
}

std::unique_ptr<UpdateRule> make_rule(const LionOptions& o, const FinishOptions& finish) {
  check_options("lion", o);
  ElementRuleSettings s{"lion", fmt::format("betas {} {}", o.beta1, o.beta2), o.lr, o.weight_decay};
  s.state = {"momentum"};
  s.numbers = 2;
  s.numbers_at = [o](const StepContext&, std::span<double> n) {
    n[0] = o.beta1;
    n[1] = o.beta2;
  };
  s.direction = [](ElementTerms& t) {
    const Term b1 = t.numbers[0], b2 = t.numbers[1], m = t.state[0], g = t.gradient;
    t.set_state(0, b2 * m + (1 - b2) * g);
    return sign(b1 * m + (1 - b1) * g);
  };
  s.flops = 7;
  return std::make_unique<ElementRule>(std::move(s), finish);
}

RuleOptions lion() { return LionOptions{}; }

}  // namespace spectrain
