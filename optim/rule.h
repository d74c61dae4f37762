#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"

// What every published rule implements. Most are made of parts that exist: an element-wise formula
// (element_rule.h) or a chain of stages over whole matrices (matrix_rule.h). To add one: one file with its
// options struct (rule_options.h says what that needs), and one line in registry.cpp. Groups, clipping,
// memory, checkpoints, ranks, configuration keys and the printed tables follow from what the rule says here.

namespace spectrain {

// How numbers are kept between steps: f32 is the master dtype (float64 where that is), bf16 half of it.
enum class StoredAs : std::uint8_t { f32, bf16 };
inline DType dtype_of(StoredAs storage, DType master) {
  return storage == StoredAs::bf16 ? DType::bf16 : master;
}

// State that a rule keeps for one part, zero at first: {"momentum", the part's shape}.
struct StateSlot {
  std::string_view name;
  Shape shape;
  StoredAs storage = StoredAs::f32;
};

// What a rule updates at a time: a whole parameter without its padding rows, or, for a rule that works on
// matrices, one of a fused parameter's splits, and more than two dimensions as [first, all others] (the
// filters of a convolution). `state` has one tensor per slot of UpdateRule::state(shape).
struct Part {
  Tensor weight, gradient;
  std::vector<Tensor> state;
};

// count elements of x [n].
inline Tensor part_of(const Tensor& x, std::int64_t first, std::int64_t count) {
  return {
      static_cast<std::byte*>(x.data) + static_cast<std::size_t>(first) * size_of(x.dtype), x.dtype, {count}};
}

struct StepContext {
  std::int64_t step = 0;      // from 0
  double lr_factor = 1;       // the schedule's
  double gradient_scale = 1;  // clipping: the gradient that counts is gradient_scale * gradient
  std::int64_t steps = 0;     // of the whole run; 0: not known
  // Of an update that the device decides, and that may be recorded (takes_late_scale()); else empty:
  Tensor late_scale = {};  // the clip factor or NaN, where gradient_scale is not known yet (then it is 1)
  Tensor numbers = {};     // [UpdateRule::numbers()] f64, those of this step, in the backend's memory
  Number scale() const { return {gradient_scale, late_scale}; }
  // factor * value, which numbers_at() has as number i.
  Number number(std::int64_t i, double value, double factor = 1) const {
    return numbers ? Number(factor, part_of(numbers, i, 1)) : Number(factor * value);
  }
  double progress() const {  // in [0, 1)
    return steps > 0 ? static_cast<double>(step) / static_cast<double>(steps) : 0;
  }
};

class UpdateRule {
 public:
  virtual ~UpdateRule() = default;

  // For the printed table: "muon", "momentum 0.95 nesterov, ..."; lr before the schedule, decoupled decay.
  virtual std::string_view name() const = 0;
  virtual std::string settings() const = 0;
  virtual double lr() const = 0;
  virtual double weight_decay() const = 0;

  // True: parts are handed over whole, fused parameters split by split. False: element-wise, splits do not
  // matter and ranks may cut anywhere.
  virtual bool wants_matrices() const = 0;
  // Why this part cannot be updated by the rule ("has 3 rows, fewer than 8"), empty when it can.
  virtual std::string objection(const Shape& part) const = 0;
  virtual std::vector<StateSlot> state(const Shape& part) const = 0;
  // Floating-point operations of one update of the part. Ranks share matrices by it.
  virtual double flops(const Shape& part) const = 0;
  // What most of them multiply: f32 is the master dtype.
  virtual DType multiplies() const { return DType::f32; }

  // Memory shared by all parts. prepare() is called once, before the first update, and allocates exactly
  // this.
  virtual std::size_t workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const = 0;
  virtual void prepare(Backend& backend, std::span<const Shape> parts) = 0;

  // One step of every part of the group. All parts at once, so that a device may batch those of equal shape;
  // the result for a part does not depend on the others. The parts are those of prepare(), in that order.
  // Allocates nothing; gradients are not written.
  virtual void update(const StepContext& context, std::span<const Part> parts) = 0;
  // Whether update() hands context.scale() to every kernel that changes state or weights, so that it may be
  // asked for before anybody knows whether the step counts, and context.numbers, so that it may be recorded
  // and done again for other steps. (Kernels that do not take them need the numbers themselves.)
  virtual bool takes_late_scale() const { return false; }
  // How many numbers of such an update change from step to step, such as learning rates, and what they are.
  virtual std::size_t numbers() const { return 0; }
  virtual void numbers_at(const StepContext& /*context*/, std::span<double> /*numbers*/) const {}

  // The state is zero again, and the next update is the first of a run, whatever its step: what this object
  // itself knows of an earlier one is forgotten.
  virtual void restart() {}

  // Rules that estimate the curvature (Sophia-G): true at steps before which observe() should be given
  // gradients of labels that the model itself sampled: those of the mean of `tokens` losses, or in general of
  // their sum divided by `tokens`.
  virtual bool wants_sampled_gradient(std::int64_t /*step*/) const { return false; }
  virtual void observe_sampled(const StepContext& /*context*/, double /*tokens*/,
                               std::span<const Part> /*parts*/) {}
};

}  // namespace spectrain
