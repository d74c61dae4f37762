#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "optim/rule.h"

// Rules around a rule: what happens to the weights after each of its steps. Formulas in optimizer.h.

namespace spectrain {

// Hands everything to the rule inside; its state comes first.
class AfterStep : public UpdateRule {
 public:
  explicit AfterStep(std::unique_ptr<UpdateRule> rule) : rule_(std::move(rule)) {}
  std::string_view name() const override { return rule_->name(); }
  std::string settings() const override { return rule_->settings(); }
  double lr() const override { return rule_->lr(); }
  double weight_decay() const override { return rule_->weight_decay(); }
  bool wants_matrices() const override { return rule_->wants_matrices(); }
  std::string objection(const Shape& part) const override { return rule_->objection(part); }
  std::vector<StateSlot> state(const Shape& part) const override { return rule_->state(part); }
  double flops(const Shape& part) const override { return rule_->flops(part); }
  std::size_t workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const override {
    return rule_->workspace_bytes(parts, backend);
  }
  void prepare(Backend& backend, std::span<const Shape> parts) override;
  void update(const StepContext& context, std::span<const Part> parts) override {
    rule_->update(context, parts);
  }
  void restart() override { rule_->restart(); }
  bool wants_sampled_gradient(std::int64_t step) const override {
    return rule_->wants_sampled_gradient(step);
  }
  void observe_sampled(const StepContext& context, double tokens, std::span<const Part> parts) override {
    rule_->observe_sampled(context, tokens, parts);
  }

 protected:
  std::size_t own_slot(const Part& part) const { return rule_->state(part.weight.shape).size(); }
  Backend& backend() const { return *backend_; }

 private:
  std::unique_ptr<UpdateRule> rule_;
  Backend* backend_ = nullptr;
};

class LookAhead final : public AfterStep {
 public:
  LookAhead(std::unique_ptr<UpdateRule> rule, const LookAheadOptions& options);
  std::string settings() const override;
  std::vector<StateSlot> state(const Shape& part) const override;
  void update(const StepContext& context, std::span<const Part> parts) override;

 private:
  LookAheadOptions options_;
  Formula formula_;
};

class Average final : public AfterStep {
 public:
  Average(std::unique_ptr<UpdateRule> rule, const AverageOptions& options);
  std::string settings() const override;
  std::vector<StateSlot> state(const Shape& part) const override;
  std::size_t workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const override;
  void prepare(Backend& backend, std::span<const Shape> parts) override;
  void update(const StepContext& context, std::span<const Part> parts) override;
  // The blend takes the weights' place, and the weights come back, to the last bit.
  void show(std::span<const Part> parts);
  void restore(std::span<const Part> parts);

 private:
  AverageOptions options_;
  Formula mean_, blend_;
  std::unique_ptr<Buffer> weights_;
};

}  // namespace spectrain
