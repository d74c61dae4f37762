#include "optim/matrix_rule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace spectrain {

double shape_factor(ShapeScale scale, std::int64_t out, std::int64_t in) {
  const double m = static_cast<double>(out), n = static_cast<double>(in);
  switch (scale) {
    case ShapeScale::original:
      return std::sqrt(std::max(1.0, m / n));
    case ShapeScale::match_rms:
      return 0.2 * std::sqrt(std::max(m, n));
    case ShapeScale::unit_rms:
      return std::sqrt(m / n);
  }
  return 1;
}

std::string_view name_of(ShapeScale scale) {
  switch (scale) {
    case ShapeScale::original:
      return "original";
    case ShapeScale::match_rms:
      return "match_rms";
    case ShapeScale::unit_rms:
      return "unit_rms";
  }
  return "";
}

MatrixRule::MatrixRule(MatrixRuleSettings settings, std::vector<std::unique_ptr<MatrixStage>> stages)
    : settings_(std::move(settings)), stages_(std::move(stages)) {}

std::string MatrixRule::objection(const Shape& part) const {
  if (part.rank() != 2) return fmt::format("is {}, not a matrix", part.str());
  if (std::min(part[0], part[1]) < kSmallestSide)
    return fmt::format("is {}, a side below {}", part.str(), kSmallestSide);
  return {};
}

std::vector<StateSlot> MatrixRule::state(const Shape& part) const {
  std::vector<StateSlot> slots;
  for (const auto& stage : stages_)
    for (const StateSlot& slot : stage->state(part)) slots.push_back(slot);
  return slots;
}

double MatrixRule::flops(const Shape& part) const {
  double sum = 3.0 * static_cast<double>(part.numel());  // the update itself
  for (const auto& stage : stages_) sum += stage->flops(part);
  return sum;
}

std::size_t MatrixRule::workspace_bytes(std::span<const Shape> parts, DType master) const {
  std::size_t bytes = 0;
  for (const auto& stage : stages_) bytes += stage->workspace_bytes(parts, master);
  return bytes;
}

void MatrixRule::prepare(Backend& backend, std::span<const Shape> parts) {
  backend_ = &backend;
  for (const auto& stage : stages_) stage->prepare(backend, parts);
}

void MatrixRule::update(const StepContext& context, std::span<const Part> parts) {
  for (const Part& part : parts) update(context, part);
}

void MatrixRule::update(const StepContext& context, const Part& part) {
  Tensor direction = part.gradient;
  std::span<const Tensor> state = part.state;
  for (const auto& stage : stages_) {
    const std::size_t slots = stage->state(part.weight.shape).size();
    direction = stage->apply(context, direction, state.first(slots));
    state = state.subspan(slots);
  }
  const double lr = settings_.lr * context.lr_factor;
  const Shape& shape = part.weight.shape;
  backend_->apply_update(part.weight, 1 - lr * settings_.weight_decay,
                         lr * shape_factor(settings_.shape_scale, shape[0], shape[1]), direction);
}

}  // namespace spectrain
