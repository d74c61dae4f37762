#include "optim/element_rule.h"

#include <algorithm>

namespace spectrain {
namespace {

enum FirstTensors : std::int32_t { kWeight, kGradient, kState };
enum FirstNumbers : std::int32_t { kRate, kDecay, kGradientScale, kOwn };

std::int64_t largest(std::span<const Shape> parts) {
  std::int64_t most = 0;
  for (const Shape& s : parts) most = std::max(most, s.numel());
  return most;
}

}  // namespace

ElementRule::ElementRule(ElementRuleSettings settings, const FinishOptions& finish)
    : settings_(std::move(settings)), finish_(finish, settings_.lr, settings_.weight_decay) {
  check(finish, settings_.name, settings_.weight_decay);
  numbers_.resize(kOwn + settings_.numbers);
  write_formula();
}

void ElementRule::write_formula() {
  const Term weight = formula_.tensor(kWeight),
             gradient = formula_.number(kGradientScale) * formula_.tensor(kGradient);
  ElementTerms terms{weight, gradient, {}, {}, [this](std::size_t k, const Term& value) {
                       formula_.assign(kState + static_cast<std::int32_t>(k), value);
                     }};
  for (std::size_t k = 0; k < settings_.state.size(); ++k)
    terms.state.push_back(formula_.tensor(kState + static_cast<std::int32_t>(k)));
  for (std::size_t k = 0; k < settings_.numbers; ++k)
    terms.numbers.push_back(formula_.number(kOwn + static_cast<std::int32_t>(k)));
  const Term d = settings_.direction(terms);
  if (finish_.whole()) {
    formula_.assign(kState + static_cast<std::int32_t>(settings_.state.size()), d);
    return;
  }
  const Term decay = formula_.number(kDecay);
  // The change is summed before it meets the weight: 1 - decay in float32 would lose a small decay.
  const Term shrinking =
      finish_.cautious() ? decay * weight * (1 - above(0.0 - d * weight, 0)) : decay * weight;
  // In bf16 the new weight is rounded once, on its way to memory of that dtype.
  const std::int32_t result =
      in_bf16() ? kState + static_cast<std::int32_t>(settings_.state.size()) : std::int32_t{kWeight};
  formula_.assign(result, weight - (shrinking + formula_.number(kRate) * d));
}

std::vector<StateSlot> ElementRule::state(const Shape& part) const {
  std::vector<StateSlot> slots;
  for (const std::string_view name : settings_.state) slots.push_back({name, part, finish_.storage()});
  for (const StateSlot& slot : finish_.state(part)) slots.push_back(slot);
  return slots;
}

double ElementRule::flops(const Shape& part) const {
  return settings_.flops * static_cast<double>(part.numel()) + finish_.flops(part);
}

std::size_t ElementRule::workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const {
  if (in_bf16()) return static_cast<std::size_t>(largest(parts)) * size_of(DType::bf16);
  if (!finish_.whole()) return 0;
  return static_cast<std::size_t>(largest(parts)) * size_of(backend.master()) +
         finish_.workspace_bytes(parts, backend);
}

void ElementRule::prepare(Backend& backend, std::span<const Shape> parts) {
  backend_ = &backend;
  tensors_.reserve(kState + settings_.state.size() + 1);
  if (in_bf16()) scratch_ = backend.allocate(workspace_bytes(parts, backend), "new weights in bf16");
  if (!finish_.whole()) return;
  scratch_ = backend.allocate(static_cast<std::size_t>(largest(parts)) * size_of(backend.master()),
                              "directions of updates");
  finish_.prepare(backend, parts);
}

// `begins`: the weight may not be one of bf16 yet. Done again it changes nothing.
void ElementRule::update_in_bf16(const Part& part, bool begins) {
  const Tensor rounded = scratch_->view(DType::bf16, part.weight.shape);
  if (begins) {
    backend_->copy(part.weight, rounded);
    backend_->copy(rounded, part.weight);
  }
  tensors_.push_back(rounded);
  backend_->evaluate(formula_, numbers_, tensors_);
  backend_->copy(rounded, part.weight);
}

void ElementRule::update(const StepContext& context, std::span<const Part> parts) {
  numbers_[kRate] = finish_.rate(context);
  numbers_[kDecay] = finish_.decay(context);
  numbers_[kGradientScale] = context.gradient_scale;
  if (settings_.numbers_at) settings_.numbers_at(context, std::span(numbers_).subspan(kOwn));
  const bool begins = !began_;
  began_ = true;
  for (const Part& part : parts) {
    tensors_.assign({part.weight, part.gradient});
    for (std::size_t k = 0; k < settings_.state.size(); ++k) tensors_.push_back(part.state[k]);
    if (in_bf16()) {
      update_in_bf16(part, begins);
      continue;
    }
    if (!finish_.whole()) {
      backend_->evaluate(formula_, numbers_, tensors_);
      continue;
    }
    const Tensor direction = scratch_->view(backend_->master(), part.weight.shape);
    tensors_.push_back(direction);
    backend_->evaluate(formula_, numbers_, tensors_);
    finish_.apply(context, part, settings_.state.size(), direction, 1);
  }
}

}  // namespace spectrain
