#include "optim/momentum.h"

#include <algorithm>

namespace spectrain {

std::size_t EmaMomentum::workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const {
  std::int64_t largest = 0;
  for (const Shape& b : batches) largest = std::max(largest, b.numel());
  return static_cast<std::size_t>(largest) * size_of(backend.master());
}

void EmaMomentum::prepare(Backend& backend, std::span<const Shape> batches) {
  backend_ = &backend;
  result_ = backend.allocate(workspace_bytes(batches, backend), "momentum workspace");
}

Tensor EmaMomentum::apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) {
  const Shape& each = batch.shape();
  const Tensor result = result_->view(backend_->master(), {batch.size(), each[0], each[1]});
  const double mu = momentum_at(warmup_, mu_, context.step);
  for (std::int64_t i = 0; i < batch.size(); ++i) {
    const Part& part = *batch.parts[static_cast<std::size_t>(i)];
    backend_->ema_momentum(in ? in.matrix(i) : part.gradient, context.gradient_scale, mu, nesterov_,
                           part.state[batch.first_slot], result.matrix(i));
  }
  return result;
}

}  // namespace spectrain
