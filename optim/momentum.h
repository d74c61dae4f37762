#pragma once

#include "optim/matrix_rule.h"
#include "optim/momentum_options.h"

namespace spectrain {

// Momentum, g' = gradient_scale g, mu from its warm-up, its value and its cool-down (momentum_at):
//
//   ema   m = mu m + (1 - mu) g'    u = nesterov ? mu m + (1 - mu) g' : m     (modded-nanogpt from #15 on)
//   sum   m = mu m + g'             u = nesterov ? mu m + g' : m      (Jordan 2024; Liu et al. 2025; to #14)
//
// With a constant mu the sum is 1 / (1 - mu) times the average, Nesterov's look-ahead included, so behind a
// direction that does not depend on the length of its input both are the same rule. While mu changes they are
// not: a sum weighs every gradient as it came, an average those of a small mu more.
// State: 1 number per parameter (momentum). Workspace: one batch of matrices, master dtype. Cost: 5 FLOPs per
// parameter.
class Momentum final : public MatrixStage {
 public:
  explicit Momentum(const MomentumOptions& options) : options_(options) {}

  std::vector<StateSlot> state(const Shape& part) const override { return {{"momentum", part}}; }
  double flops(const Shape& part) const override { return 5.0 * static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override;
  void prepare(Backend& backend, std::span<const Shape> batches) override;
  Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) override;
  bool takes_late_scale() const override { return true; }
  std::size_t numbers() const override { return kNumbers; }
  void numbers_at(const StepContext& context, std::span<double> numbers) const override;

 private:
  enum : std::uint8_t { kMu, kWeight, kNumbers };
  MomentumOptions options_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Buffer> result_;
  std::vector<MomentumPart> together_;  // a step allocates nothing
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
