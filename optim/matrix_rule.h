#pragma once

#include <memory>
#include <string>
#include <vector>

#include "optim/rule.h"

// Rules for whole matrices are chains of stages:
//
//   gradient -> momentum -> direction (Newton-Schulz, sign ...) -> post-normalisation -> D
//   W = (1 - lr decay) W - lr shape_factor D
//
// A rule of this family is the list of its stages (muon.cpp); a new direction or normalisation is one new
// stage.

namespace spectrain {

class MatrixStage {
 public:
  virtual ~MatrixStage() = default;
  virtual std::vector<StateSlot> state(const Shape&) const { return {}; }
  virtual double flops(const Shape& part) const = 0;
  // As in UpdateRule. A stage must serve every part with one workspace as large as the largest needs.
  virtual std::size_t workspace_bytes(std::span<const Shape> parts, DType master) const = 0;
  virtual void prepare(Backend& backend, std::span<const Shape> parts) = 0;
  // in [out, in_features]: what the stage before made, which may be overwritten; for the first stage the
  // gradient, which may not. Returns the stage's result, same shape, f32 or bf16, in `in`'s memory or the
  // stage's own.
  virtual Tensor apply(const StepContext& context, const Tensor& in, std::span<const Tensor> state) = 0;
};

// The factor of ShapeScale for an [out, in] matrix (optimizer.h). Sources: original, K. Jordan 2024;
// match_rms, Liu et al. 2025 (2502.16982), so that RMS(update) is about 0.2, AdamW's; unit_rms, Bernstein and
// Newhouse 2024.
double shape_factor(ShapeScale scale, std::int64_t out, std::int64_t in);
std::string_view name_of(ShapeScale scale);

struct MatrixRuleSettings {
  std::string name, settings;  // for the printed table
  double lr = 0, weight_decay = 0;
  ShapeScale shape_scale = ShapeScale::original;
};

// Matrices only, each side at least kSmallestSide: an update that is orthogonal says little about a sliver,
// and a vector has only one singular value.
class MatrixRule final : public UpdateRule {
 public:
  static constexpr std::int64_t kSmallestSide = 8;

  MatrixRule(MatrixRuleSettings settings, std::vector<std::unique_ptr<MatrixStage>> stages);

  std::string_view name() const override { return settings_.name; }
  std::string settings() const override { return settings_.settings; }
  double lr() const override { return settings_.lr; }
  double weight_decay() const override { return settings_.weight_decay; }
  bool wants_matrices() const override { return true; }
  std::string objection(const Shape& part) const override;
  std::vector<StateSlot> state(const Shape& part) const override;
  double flops(const Shape& part) const override;
  std::size_t workspace_bytes(std::span<const Shape> parts, DType master) const override;
  void prepare(Backend& backend, std::span<const Shape> parts) override;
  void update(const StepContext& context, std::span<const Part> parts) override;

 private:
  void update(const StepContext& context, const Part& part);

  MatrixRuleSettings settings_;
  std::vector<std::unique_ptr<MatrixStage>> stages_;
  Backend* backend_ = nullptr;
};

}  // namespace spectrain
