#include "optim/momentum.h"

#include <fmt/format.h>

#include <algorithm>

namespace spectrain {

namespace {
constexpr Word<MomentumForm> kForms[] = {{"ema", MomentumForm::ema}, {"sum", MomentumForm::sum}};
}  // namespace

void describe_momentum(OptionVisitor& v, MomentumOptions& o) {
  v.field("momentum", &o.momentum, below_one(), "of the running mean of gradients");
  v.field("nesterov", &o.nesterov, {}, "look one step ahead");
  v.field("momentum_form", choice(o.momentum_form, kForms), {},
          "ema: m = mu m + (1 - mu) g; sum: m = mu m + g");
  v.section("momentum_warmup", "momentum grows from start over the first steps", [&](OptionVisitor& inside) {
    inside.field("start", &o.momentum_warmup.start, below_one(), "momentum of the first step");
    inside.field("steps", &o.momentum_warmup.steps, count_from(0),
                 "until momentum is reached; 0: from the start");
  });
  v.section("momentum_cooldown", "momentum falls to end over the last steps", [&](OptionVisitor& inside) {
    inside.field("end", &o.momentum_cooldown.end, below_one(),
                 "momentum that the step after the last would have");
    inside.field("steps", &o.momentum_cooldown.steps, count_from(0),
                 "of the run's last; 0: it does not fall");
  });
}

std::string momentum_settings(const MomentumOptions& o) {
  std::string text = fmt::format("momentum {}", o.momentum);
  const MomentumWarmup& w = o.momentum_warmup;
  const MomentumCooldown& c = o.momentum_cooldown;
  if (w.steps > 0) text += fmt::format(" (from {} in {} steps)", w.start, w.steps);
  if (c.steps > 0) text += fmt::format(" (to {} in the last {} steps)", c.end, c.steps);
  if (o.momentum_form == MomentumForm::sum) text += " as a sum";
  return text + (o.nesterov ? " nesterov" : "");
}

std::size_t Momentum::workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const {
  return static_cast<std::size_t>(largest_batch(batches)) * size_of(backend.master());
}

void Momentum::prepare(Backend& backend, std::span<const Shape> batches) {
  backend_ = &backend;
  result_ = backend.allocate(workspace_bytes(batches, backend), "momentum workspace");
  std::int64_t most = 0;
  for (const Shape& b : batches) most = std::max(most, b[0]);
  together_.reserve(static_cast<std::size_t>(most));
}

Tensor Momentum::apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) {
  const Tensor result = result_->view(backend_->master(), batch.stacked());
  double numbers[kNumbers];
  numbers_at(context, numbers);
  together_.clear();
  for (std::int64_t i = 0; i < batch.size(); ++i)
    together_.push_back({in ? in.matrix(i).reshaped(batch.shape()) : batch.part(i).gradient,
                         batch.state(i, 0), result.matrix(i).reshaped(batch.shape())});
  backend_->ema_momentum({context.number(kMu, numbers[kMu]), options_.nesterov,
                          context.number(kWeight, numbers[kWeight]), context.scale()},
                         together_);
  return result;
}

void Momentum::numbers_at(const StepContext& context, std::span<double> numbers) const {
  const double mu = momentum_at(options_.momentum_warmup, options_.momentum_cooldown, options_.momentum,
                                context.step, context.steps);
  numbers[kMu] = mu;
  // The kernel's average of gradients 1 / (1 - mu) times as large is their sum.
  numbers[kWeight] = options_.momentum_form == MomentumForm::sum ? 1 / (1 - mu) : 1;
}

std::size_t PlainGradient::workspace_bytes(std::span<const Shape> batches,
                                           const BackendSizes& backend) const {
  return static_cast<std::size_t>(largest_batch(batches)) * size_of(backend.master());
}

void PlainGradient::prepare(Backend& backend, std::span<const Shape> batches) {
  backend_ = &backend;
  result_ = backend.allocate(workspace_bytes(batches, backend), "copies of gradients");
}

Tensor PlainGradient::apply(const StepContext& context, const MatrixBatch& batch, const Tensor&) {
  const Tensor result = result_->view(backend_->master(), batch.stacked());
  for (std::int64_t i = 0; i < batch.size(); ++i)
    backend_->scale(batch.part(i).gradient, context.gradient_scale, result.matrix(i).reshaped(batch.shape()));
  return result;
}

}  // namespace spectrain
