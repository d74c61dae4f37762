#include "optim/adamw.h"

#include <fmt/format.h>

#include <algorithm>

#include "optim/adam_moments.h"
#include "optim/check_option.h"
#include "optim/registry.h"

namespace spectrain {
namespace {

std::string settings_of(const AdamWOptions& o) {
  return fmt::format("betas {} {}, eps {}", o.beta1, o.beta2, o.eps);
}

// Update and decoupled decay in the backend's own kernel.
class FusedAdamW final : public UpdateRule {
 public:
  FusedAdamW(const AdamWOptions& options, const FinishOptions& finish)
      : options_(options), finish_(finish, options.lr, options.weight_decay) {}

  std::string_view name() const override { return "adamw"; }
  std::string settings() const override { return settings_of(options_) + finish_.settings(); }
  double lr() const override { return options_.lr; }
  double weight_decay() const override { return options_.weight_decay; }
  bool wants_matrices() const override { return false; }
  std::string objection(const Shape&) const override { return {}; }
  std::vector<StateSlot> state(const Shape& part) const override {
    return {{"adam_m", part}, {"adam_v", part}};
  }
  double flops(const Shape& part) const override { return 15.0 * static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape>, const BackendSizes&) const override { return 0; }
  void prepare(Backend& backend, std::span<const Shape> parts) override {
    backend_ = &backend;
    together_.reserve(parts.size());
  }

  void update(const StepContext& context, std::span<const Part> parts) override {
    AdamWStep step = step_of(context);
    step.gradient_scale = context.scale();
    step.late_rates = context.numbers;
    together_.clear();
    for (const Part& p : parts) together_.push_back({p.weight, p.gradient, p.state[0], p.state[1]});
    backend_->adamw(step, together_);
  }
  bool takes_late_scale() const override { return true; }
  std::size_t numbers() const override { return AdamWStep::kRates; }
  void numbers_at(const StepContext& context, std::span<double> numbers) const override {
    std::ranges::copy(step_of(context).rates(), numbers.begin());
  }

 private:
  AdamWStep step_of(const StepContext& context) const {
    AdamWStep step;
    step.lr = finish_.rate(context);
    step.beta1 = options_.beta1;
    step.beta2 = options_.beta2;
    step.eps = options_.eps;
    step.weight_decay = options_.weight_decay;
    step.step = context.step + 1;
    return step;
  }

  AdamWOptions options_;
  Finish finish_;
  Backend* backend_ = nullptr;
  std::vector<AdamWPart> together_;  // a step allocates nothing
};

std::unique_ptr<UpdateRule> by_formula(const AdamWOptions& o, const FinishOptions& finish) {
  ElementRuleSettings s{"adamw", settings_of(o), o.lr, o.weight_decay};
  s.state = {"adam_m", "adam_v"};
  s.numbers = kAdamNumbers;
  s.numbers_at = [o](const StepContext& c, std::span<double> n) {
    adam_numbers(c, o.beta1, o.beta2, o.eps, n);
  };
  s.direction = [](ElementTerms& t) { return adam_direction(t, t.gradient); };
  s.flops = 12;
  return std::make_unique<ElementRule>(std::move(s), finish);
}

}  // namespace

const RuleInfo& info_of(const AdamWOptions&) {
  static const RuleInfo info{"adamw", "m, v averages of g, g^2;  w -= lr (m^ / (sqrt(v^) + eps) + decay w)",
                             "Kingma and Ba 2015 (1412.6980); Loshchilov and Hutter 2019 (1711.05101)"};
  return info;
}

void describe_options(OptionVisitor& v, AdamWOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("betas", Tuple{{&o.beta1, &o.beta2}}, below_one(), "decay of the first and second moment");
  // Above 0: an element whose gradient has always been zero (a token never seen) would be moved by 0 / 0.
  v.field("eps", &o.eps, above_only(0), "added to the root of the second moment");
}

std::unique_ptr<UpdateRule> make_rule(const AdamWOptions& o, const FinishOptions& finish) {
  check_options("adamw", o);
  if (finish == FinishOptions{}) return std::make_unique<FusedAdamW>(o, finish);
  return by_formula(o, finish);
}

RuleOptions adamw() { return AdamWOptions{}; }
RuleOptions::RuleOptions() : RuleOptions(AdamWOptions{}) {}

}  // namespace spectrain
