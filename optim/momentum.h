#pragma once

#include "optim/matrix_rule.h"
#include "optim/schedule.h"

namespace spectrain {

// The options "momentum", "nesterov" and "momentum_warmup", and their words in the printed table.
void describe_momentum(OptionVisitor& v, double& momentum, bool& nesterov, MomentumWarmup& warmup);
std::string momentum_settings(double momentum, bool nesterov, const MomentumWarmup& warmup);

// Momentum as an exponential average (K. Jordan 2024), g' = gradient_scale g:
//
//   m = mu m + (1 - mu) g'       u = nesterov ? mu m + (1 - mu) g' : m
//
// The accumulating form m = mu m + g' (Liu et al. 2025) is 1 / (1 - mu) times this one, Nesterov's look-ahead
// included, so behind a direction that does not depend on the length of its input both are the same rule.
// State: 1 number per parameter (momentum). Workspace: one batch of matrices, master dtype. Cost: 5 FLOPs per
// parameter.
class EmaMomentum final : public MatrixStage {
 public:
  EmaMomentum(double mu, bool nesterov, const MomentumWarmup& warmup)
      : mu_(mu), nesterov_(nesterov), warmup_(warmup) {}

  std::vector<StateSlot> state(const Shape& part) const override { return {{"momentum", part}}; }
  double flops(const Shape& part) const override { return 5.0 * static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override;
  void prepare(Backend& backend, std::span<const Shape> batches) override;
  Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) override;

 private:
  double mu_;
  bool nesterov_;
  MomentumWarmup warmup_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Buffer> result_;
};

// No momentum: u = g', a copy that later stages may overwrite. No state.
class PlainGradient final : public MatrixStage {
 public:
  double flops(const Shape& part) const override { return static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override;
  void prepare(Backend& backend, std::span<const Shape> batches) override;
  Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) override;

 private:
  Backend* backend_ = nullptr;
  std::unique_ptr<Buffer> result_;
};

}  // namespace spectrain
