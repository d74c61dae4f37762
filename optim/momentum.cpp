#include "optim/momentum.h"

#include <fmt/format.h>

#include <algorithm>

namespace spectrain {

void describe_momentum(OptionVisitor& v, double& momentum, bool& nesterov, MomentumWarmup& warmup) {
  v.field("momentum", &momentum, below_one(), "of the running mean of gradients");
  v.field("nesterov", &nesterov, {}, "look one step ahead");
  v.section("momentum_warmup", "momentum grows from start over the first steps", [&](OptionVisitor& inside) {
    inside.field("start", &warmup.start, below_one(), "momentum of the first step");
    inside.field("steps", &warmup.steps, count_from(0), "until momentum is reached; 0: from the start");
  });
}

std::string momentum_settings(double momentum, bool nesterov, const MomentumWarmup& warmup) {
  std::string text = fmt::format("momentum {}", momentum);
  if (warmup.steps > 0) text += fmt::format(" (from {} in {} steps)", warmup.start, warmup.steps);
  return text + (nesterov ? " nesterov" : "");
}

std::size_t EmaMomentum::workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const {
  return static_cast<std::size_t>(largest_batch(batches)) * size_of(backend.master());
}

void EmaMomentum::prepare(Backend& backend, std::span<const Shape> batches) {
  backend_ = &backend;
  result_ = backend.allocate(workspace_bytes(batches, backend), "momentum workspace");
}

Tensor EmaMomentum::apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) {
  const Tensor result = result_->view(backend_->master(), batch.stacked());
  const double mu = momentum_at(warmup_, mu_, context.step);
  for (std::int64_t i = 0; i < batch.size(); ++i)
    backend_->ema_momentum(in ? in.matrix(i).reshaped(batch.shape()) : batch.part(i).gradient,
                           context.gradient_scale, mu, nesterov_, batch.state(i, 0),
                           result.matrix(i).reshaped(batch.shape()));
  return result;
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
