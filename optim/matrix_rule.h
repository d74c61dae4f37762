#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "optim/finish.h"
#include "optim/rule.h"
#include "optim/shape_scale.h"

// Rules for whole matrices are chains of stages:
//
//   gradient -> momentum -> direction (Newton-Schulz, sign ...) -> post-normalisation -> D
//   W = (1 - lr decay) W - lr shape_factor D          and what finish.h offers beside that
//
// A rule of this family is the list of its stages (muon.cpp); a new direction or normalisation is one new
// stage.
//
// Matrices of equal shape go through the stages together, as many at a time as the backend asks for
// (matrices_at_once): one matrix of a small model does not fill a GPU. On the CPU that is one.

namespace spectrain {

// Some parts of one shape.
struct MatrixBatch {
  std::span<const Part* const> parts;
  std::size_t first_slot = 0;  // where the stage's slots begin in each Part::state
  std::int64_t size() const { return static_cast<std::int64_t>(parts.size()); }
  const Shape& shape() const { return parts.front()->weight.shape; }  // of each, [out, in]
  const Part& part(std::int64_t i) const { return *parts[static_cast<std::size_t>(i)]; }
  // Slot k of the stage, of part i.
  Tensor state(std::int64_t i, std::size_t k) const { return part(i).state[first_slot + k]; }
  // [B, out, in]; of vectors, which some rules take: [B, 1, n].
  Shape stacked() const { return {size(), shape().rows(), shape().cols()}; }
};

class MatrixStage {
 public:
  virtual ~MatrixStage() = default;
  virtual std::vector<StateSlot> state(const Shape&) const { return {}; }
  virtual double flops(const Shape& part) const = 0;
  virtual DType multiplies() const { return DType::f32; }
  // As in UpdateRule, but of the batches [B, out, in] that apply() will be given. A stage must serve every
  // batch with one workspace as large as the largest needs.
  virtual std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const = 0;
  virtual void prepare(Backend& backend, std::span<const Shape> batches) = 0;
  // in [B, out, in]: what the stage before made, which may be overwritten; empty for the first stage, which
  // reads the parts' gradients. Returns the stage's result, same shape, in a dtype that
  // Backend::apply_update() takes, in `in`'s memory or the stage's own. An empty tensor: this step leaves the
  // weights as they are, without decay.
  virtual Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) = 0;
  // As in UpdateRule; apply() is given a context with the stage's own numbers.
  virtual bool takes_late_scale() const { return false; }
  virtual std::size_t numbers() const { return 0; }
  virtual void numbers_at(const StepContext& /*context*/, std::span<double> /*numbers*/) const {}
  virtual void restart() {}
};

// Which parts are updated together: indices, those of one shape in their order, in chunks of nearly equal
// size.
std::vector<std::vector<std::size_t>> batches_of(std::span<const Shape> parts, const BackendSizes& backend);

// Numbers in the largest batch [B, out, in], and in the largest matrix of any.
inline std::int64_t largest_batch(std::span<const Shape> batches) {
  std::int64_t most = 0;
  for (const Shape& b : batches) most = std::max(most, b.numel());
  return most;
}
inline std::int64_t largest_matrix(std::span<const Shape> batches) {
  std::int64_t most = 0;
  for (const Shape& b : batches) most = std::max(most, b[1] * b[2]);
  return most;
}

// Why a matrix rule should not update this part: it is no matrix, which has more than one singular value, or
// a side is below smallest_side (FinishOptions). Empty where it may.
std::string not_a_matrix(const Shape& part, std::int64_t smallest_side = FinishOptions{}.smallest_side);

struct MatrixRuleSettings {
  std::string name, settings;  // for the printed table
  double lr = 0, weight_decay = 0;
  ShapeScale shape_scale = ShapeScale::original;
  std::function<std::string(const Shape&)> objection = {};  // in place of not_a_matrix
  std::function<double(const Shape&)> factor = {};          // in place of shape_scale's
};

class MatrixRule final : public UpdateRule {
 public:
  // Throws RequestError when the finish does not fit the decay.
  MatrixRule(MatrixRuleSettings settings, std::vector<std::unique_ptr<MatrixStage>> stages,
             const FinishOptions& finish);

  std::string_view name() const override { return settings_.name; }
  std::string settings() const override { return settings_.settings + finish_.settings(); }
  double lr() const override { return settings_.lr; }
  double weight_decay() const override { return settings_.weight_decay; }
  bool wants_matrices() const override { return true; }
  std::string objection(const Shape& part) const override {
    return settings_.objection ? settings_.objection(part) : not_a_matrix(part, smallest_side_);
  }
  std::vector<StateSlot> state(const Shape& part) const override;
  double flops(const Shape& part) const override;
  DType multiplies() const override;
  std::size_t workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const override;
  void prepare(Backend& backend, std::span<const Shape> parts) override;
  void update(const StepContext& context, std::span<const Part> parts) override;
  bool takes_late_scale() const override;
  std::size_t numbers() const override;
  void numbers_at(const StepContext& context, std::span<double> numbers) const override;
  void restart() override;

 private:
  void update(const StepContext& context, std::span<const Part* const> batch);

  MatrixRuleSettings settings_;
  std::vector<std::unique_ptr<MatrixStage>> stages_;
  Finish finish_;
  std::int64_t smallest_side_;
  Backend* backend_ = nullptr;
  std::vector<std::vector<std::size_t>> batches_;
  std::size_t parts_ = 0;              // in all of them
  std::vector<const Part*> together_;  // of one batch; a step allocates nothing
};

}  // namespace spectrain
