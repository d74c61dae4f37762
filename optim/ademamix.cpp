#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "optim/check_option.h"
#include "optim/element_rule.h"
#include "optim/registry.h"

namespace spectrain {

// AdEMAMix (Pagliardini et al. 2024, 2409.03137): AdamW with a second, slow mean of gradients, t from 1:
//
//   m1 = b1 m1 + (1 - b1) g     m2 = b3(t) m2 + (1 - b3(t)) g     v = b2 v + (1 - b2) g^2
//   D = (m1 / (1 - b1^t) + a(t) m2) / (sqrt(v / (1 - b2^t)) + eps)           W = (1 - lr decay) W - lr D
//
//   a(t) = a min(1, t/T)
//   b3(t) = min(b3, 0.5^(1/h)),  h = (1 - s) h(b1) + s h(b3),  h(b) = ln 0.5 / ln b,  s = min(1, t/T)
//
// which is the authors' schedule: the half-life of the slow mean grows linearly. T is `warmup` steps, or the
// whole run where that is 0. Defaults: lr 1e-3, betas 0.9, 0.999, 0.9999, a 8, eps 1e-8. State: 3 numbers per
// parameter (fast, slow, square). Bound by memory.
struct AdEMAMixOptions {
  double lr = 1e-3, weight_decay = 0, beta1 = 0.9, beta2 = 0.999, beta3 = 0.9999, alpha = 8, eps = 1e-8;
  std::int64_t warmup = 0;
  bool operator==(const AdEMAMixOptions&) const = default;
};

const RuleInfo& info_of(const AdEMAMixOptions&) {
  static const RuleInfo info{"ademamix",
                             "m1 fast, m2 slow mean of g;  w -= lr ((m1^ + a m2) / (sqrt(v^) + eps))",
                             "Pagliardini et al. 2024 (2409.03137)"};
  return info;
}

void describe_options(OptionVisitor& v, AdEMAMixOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("betas", Tuple{{&o.beta1, &o.beta2, &o.beta3}}, below_one(),
          "decay of the fast mean, the second moment, the slow mean");
  v.field("alpha", &o.alpha, at_least(0), "the slow mean's weight");
  v.field("eps", &o.eps, above_only(0), "added to the root of the second moment");
  v.field("warmup", &o.warmup, count_from(0),
          "steps until alpha and the slow decay are reached; 0: the whole run");
}

namespace {

double share_of_warmup(const AdEMAMixOptions& o, const StepContext& c) {
  const std::int64_t steps = o.warmup > 0 ? o.warmup : c.steps;
  return steps > 0 ? std::min(1.0, static_cast<double>(c.step + 1) / static_cast<double>(steps)) : 1;
}

double half_life(double beta) { return beta > 0 ? std::log(0.5) / std::log(beta) : 0; }

double slow_decay(const AdEMAMixOptions& o, double share) {
  const double h = (1 - share) * half_life(o.beta1) + share * half_life(o.beta3);
  return h > 0 ? std::min(o.beta3, std::pow(0.5, 1 / h)) : 0;
}

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const AdEMAMixOptions& o, const FinishOptions& finish) {
  check_options("ademamix", o);
  if (o.beta3 < o.beta1)
    throw RequestError(
        fmt::format("ademamix: the slow mean's beta {} is below the fast one's {}", o.beta3, o.beta1));
  ElementRuleSettings s{
      "ademamix", fmt::format("betas {} {} {}, alpha {}, eps {}", o.beta1, o.beta2, o.beta3, o.alpha, o.eps),
      o.lr, o.weight_decay};
  s.state = {"fast", "slow", "square"};
  enum { kBeta1, kBeta2, kBeta3, kAlpha, kEps, kMean, kRoot, kNumbers };
  s.numbers = kNumbers;
  s.numbers_at = [o](const StepContext& c, std::span<double> n) {
    const double t = static_cast<double>(c.step + 1), share = share_of_warmup(o, c);
    n[kBeta1] = o.beta1;
    n[kBeta2] = o.beta2;
    n[kBeta3] = slow_decay(o, share);
    n[kAlpha] = o.alpha * share;
    n[kEps] = o.eps;
    n[kMean] = 1 / (1 - std::pow(o.beta1, t));
    n[kRoot] = 1 / std::sqrt(1 - std::pow(o.beta2, t));
  };
  s.direction = [](ElementTerms& t) {
    const auto& n = t.numbers;
    const Term g = t.gradient;
    const Term fast = n[kBeta1] * t.state[0] + (1 - n[kBeta1]) * g;
    const Term slow = n[kBeta3] * t.state[1] + (1 - n[kBeta3]) * g;
    const Term v = n[kBeta2] * t.state[2] + (1 - n[kBeta2]) * square(g);
    t.set_state(0, fast);
    t.set_state(1, slow);
    t.set_state(2, v);
    return (n[kMean] * fast + n[kAlpha] * slow) / (n[kRoot] * sqrt(v) + n[kEps]);
  };
  s.flops = 17;
  return std::make_unique<ElementRule>(std::move(s), finish);
}

RuleOptions ademamix() { return AdEMAMixOptions{}; }

}  // namespace spectrain
