#include <fmt/format.h>

#include "kernels/error.h"
#include "optim/adam_moments.h"
#include "optim/check_option.h"
#include "optim/registry.h"

namespace spectrain {

// Adam as published (Kingma, Ba 2015, 1412.6980), g' = g + l2 w, t from 1:
//
//   m = b1 m + (1 - b1) g'        v = b2 v + (1 - b2) g'^2
//   D = (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)           W = (1 - lr decay) W - lr D
//
// Defaults: lr 1e-3, betas 0.9 and 0.999, eps 1e-8. `l2` is the coupled decay of torch.optim.Adam, which the
// second moment largely divides away; weight_decay is AdamW's. State: 2 numbers per parameter (adam_m,
// adam_v).
struct AdamOptions {
  double lr = 1e-3, weight_decay = 0, l2 = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  bool operator==(const AdamOptions&) const = default;
};

const RuleInfo& info_of(const AdamOptions&) {
  static const RuleInfo info{"adam",
                             "m, v averages of g + l2 w and its square;  w -= lr m^ / (sqrt(v^) + eps)",
                             "Kingma and Ba 2015 (1412.6980)"};
  return info;
}

void describe_options(OptionVisitor& v, AdamOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("l2", &o.l2, at_least(0), "coupled decay: g + l2 w takes the gradient's place");
  v.field("betas", Tuple{{&o.beta1, &o.beta2}}, below_one(), "decay of the first and second moment");
  v.field("eps", &o.eps, above_only(0), "added to the root of the second moment");
}

std::unique_ptr<UpdateRule> make_rule(const AdamOptions& o, const FinishOptions& finish) {
  check_options("adam", o);
  ElementRuleSettings s{"adam", fmt::format("betas {} {}, eps {}, l2 {}", o.beta1, o.beta2, o.eps, o.l2),
                        o.lr, o.weight_decay};
  s.state = {"adam_m", "adam_v"};
  s.numbers = kAdamNumbers + 1;
  s.numbers_at = [o](const StepContext& c, std::span<double> n) {
    adam_numbers(c, o.beta1, o.beta2, o.eps, n);
    n[kAdamNumbers] = o.l2;
  };
  s.direction = [](ElementTerms& t) {
    return adam_direction(t, t.gradient + t.numbers[kAdamNumbers] * t.weight);
  };
  s.flops = 14;
  return std::make_unique<ElementRule>(std::move(s), finish);
}

RuleOptions adam() { return AdamOptions{}; }

}  // namespace spectrain
