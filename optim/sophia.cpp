#include <fmt/format.h>

#include "optim/check_option.h"
#include "optim/element_rule.h"
#include "optim/registry.h"

namespace spectrain {

// Sophia-G (Liu et al. 2023, 2305.14342). Every k steps, before the step, with gs the mean gradient over the
// B labels of a batch drawn from the model's own predictions (the Gauss-Newton-Bartlett estimate of the
// diagonal of the Hessian):
//
//   h = b2 h + (1 - b2) B gs^2
//
// and in every step  m = b1 m + (1 - b1) g,  D = clip(m / (rho h + 1e-15), -1, 1),  W = (1 - lr decay) W - lr
// D.
//
// The batch of the estimate is that of the step. Where h is 0, D is the sign of m. Defaults: lr 4e-4, betas
// 0.965 and 0.99, rho 0.04, k 10, decay 0.1. The authors' program keeps h without B and divides by rho B h.
// State: 2 numbers per parameter (momentum, curvature). Cost: one more forward and backward pass in k steps.
struct SophiaOptions {
  double lr = 4e-4, weight_decay = 0.1, beta1 = 0.965, beta2 = 0.99, rho = 0.04;
  std::int64_t every = 10;
  bool operator==(const SophiaOptions&) const = default;
};

const RuleInfo& info_of(const SophiaOptions&) {
  static const RuleInfo info{"sophia",
                             "h = b2 h + (1 - b2) B gs^2, gs of sampled labels;  w -= lr clip(m / (rho h))",
                             "Liu et al. 2023 (2305.14342), Sophia-G"};
  return info;
}

void describe_options(OptionVisitor& v, SophiaOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate: the farthest a number moves in a step");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("betas", Tuple{{&o.beta1, &o.beta2}}, below_one(), "decay of the momentum and of the curvature");
  v.field("rho", &o.rho, above_only(0),
          "scale of the curvature: smaller, and more numbers move the farthest");
  v.field("every", &o.every, count_from(1), "steps between estimates of the curvature");
}

namespace {

ElementRuleSettings settings_of(const SophiaOptions& o) {
  ElementRuleSettings s{
      "sophia", fmt::format("betas {} {}, rho {}, curvature every {}", o.beta1, o.beta2, o.rho, o.every),
      o.lr, o.weight_decay};
  s.state = {"momentum", "curvature"};
  s.numbers = 2;
  s.numbers_at = [o](const StepContext&, std::span<double> n) {
    n[0] = o.beta1;
    n[1] = o.rho;
  };
  s.direction = [](ElementTerms& t) {
    const Term m = t.numbers[0] * t.state[0] + (1 - t.numbers[0]) * t.gradient;
    t.set_state(0, m);
    return max(min(m / (t.numbers[1] * t.state[1] + 1e-15), 1), -1);
  };
  s.flops = 8;
  return s;
}

class Sophia final : public ElementRule {
 public:
  Sophia(const SophiaOptions& options, const FinishOptions& finish)
      : ElementRule(settings_of(options), finish), options_(options) {
    const Term beta = curvature_.number(0), labels = curvature_.number(1);
    curvature_.assign(0, beta * curvature_.tensor(0) + (1 - beta) * labels * square(curvature_.tensor(1)));
  }

  bool wants_sampled_gradient(std::int64_t step) const override { return step % options_.every == 0; }
  void observe_sampled(const StepContext&, double labels, std::span<const Part> parts) override {
    for (const Part& p : parts)
      backend().evaluate(curvature_, {options_.beta2, labels}, {p.state[1], p.gradient});
  }

 private:
  SophiaOptions options_;
  Formula curvature_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const SophiaOptions& o, const FinishOptions& finish) {
  check_options("sophia", o);
  return std::make_unique<Sophia>(o, finish);
}

RuleOptions sophia() { return SophiaOptions{}; }

}  // namespace spectrain
