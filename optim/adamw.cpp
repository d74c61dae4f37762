#include "optim/adamw.h"

#include <fmt/format.h>

#include "optim/check_option.h"

namespace spectrain {

AdamW::AdamW(const AdamWOptions& options) : options_(options) {
  check_not_negative("adamw", "lr", options.lr);
  check_not_negative("adamw", "weight_decay", options.weight_decay);
  check_fraction("adamw", "beta1", options.beta1);
  check_fraction("adamw", "beta2", options.beta2);
  check_not_negative("adamw", "eps", options.eps);
  // An element whose gradient has always been zero (a token never seen) would be moved by 0 / 0.
  if (options.eps == 0) throw RequestError("adamw: eps is 0, but must be above 0 (1e-8 is usual)");
}

std::string AdamW::settings() const {
  return fmt::format("betas {} {}, eps {}", options_.beta1, options_.beta2, options_.eps);
}

void AdamW::prepare(Backend& backend, std::span<const Shape>) { backend_ = &backend; }

void AdamW::update(const StepContext& context, std::span<const Part> parts) {
  AdamWStep step;
  step.lr = options_.lr * context.lr_factor;
  step.beta1 = options_.beta1;
  step.beta2 = options_.beta2;
  step.eps = options_.eps;
  step.weight_decay = options_.weight_decay;
  step.step = context.step + 1;
  step.gradient_scale = context.gradient_scale;
  for (const Part& p : parts) backend_->adamw(step, p.weight, p.gradient, p.state[0], p.state[1]);
}

std::unique_ptr<UpdateRule> make_rule(const AdamWOptions& options) {
  return std::make_unique<AdamW>(options);
}

}  // namespace spectrain
