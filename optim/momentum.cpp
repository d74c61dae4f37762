#include "optim/momentum.h"

#include <algorithm>

namespace spectrain {

std::size_t EmaMomentum::workspace_bytes(std::span<const Shape> parts, DType master) const {
  std::int64_t largest = 0;
  for (const Shape& p : parts) largest = std::max(largest, p.numel());
  return static_cast<std::size_t>(largest) * size_of(master);
}

void EmaMomentum::prepare(Backend& backend, std::span<const Shape> parts) {
  backend_ = &backend;
  result_ = backend.allocate(workspace_bytes(parts, backend.master()), "momentum workspace");
}

Tensor EmaMomentum::apply(const StepContext& context, const Tensor& in, std::span<const Tensor> state) {
  const Tensor u = result_->view(in.dtype, in.shape);
  backend_->ema_momentum(in, context.gradient_scale, momentum_at(warmup_, mu_, context.step), nesterov_,
                         state[0], u);
  return u;
}

}  // namespace spectrain
