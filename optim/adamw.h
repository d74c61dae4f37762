#pragma once

#include "optim/rule.h"

namespace spectrain {

// AdamW (Kingma, Ba 2015, 1412.6980; decoupled decay: Loshchilov, Hutter 2019, 1711.05101). Element-wise, t
// from 1:
//
//   m = b1 m + (1 - b1) g          v = b2 v + (1 - b2) g^2
//   w = w (1 - lr decay) - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
//
// Defaults: lr 1e-3, betas 0.9 and 0.95, eps 1e-8, decay 0. The decay is of the scheduled lr.
// State: 2 numbers per parameter (adam_m, adam_v). Cost: about 15 FLOPs per parameter; bound by memory.
class AdamW final : public UpdateRule {
 public:
  explicit AdamW(const AdamWOptions& options);

  std::string_view name() const override { return "adamw"; }
  std::string settings() const override;
  double lr() const override { return options_.lr; }
  double weight_decay() const override { return options_.weight_decay; }
  bool wants_matrices() const override { return false; }
  std::string objection(const Shape&) const override { return {}; }
  std::vector<StateSlot> state(const Shape& part) const override {
    return {{"adam_m", part}, {"adam_v", part}};
  }
  double flops(const Shape& part) const override { return 15.0 * static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape>, const BackendSizes&) const override { return 0; }
  void prepare(Backend& backend, std::span<const Shape> parts) override;
  void update(const StepContext& context, std::span<const Part> parts) override;

 private:
  AdamWOptions options_;
  Backend* backend_ = nullptr;
};

}  // namespace spectrain
