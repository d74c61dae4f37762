#include "optim/after_step.h"

#include <fmt/format.h>

namespace spectrain {

void AfterStep::prepare(Backend& backend, std::span<const Shape> parts) {
  backend_ = &backend;
  rule_->prepare(backend, parts);
}

LookAhead::LookAhead(std::unique_ptr<UpdateRule> rule, const LookAheadOptions& options)
    : AfterStep(std::move(rule)), options_(options) {
  enum { kWeight, kPath, kFrom };
  const Term w = formula_.tensor(kWeight), decay = formula_.number(0), strength = formula_.number(1);
  const Term path = decay * formula_.tensor(kPath) + (1 - decay) * (w - formula_.tensor(kFrom));
  formula_.assign(kPath, path);
  formula_.assign(kFrom, w);
  formula_.assign(kWeight, w + strength * path);
}

std::string LookAhead::settings() const {
  return fmt::format("{}, look-ahead {} of {}", AfterStep::settings(), options_.strength, options_.decay);
}

std::vector<StateSlot> LookAhead::state(const Shape& part) const {
  std::vector<StateSlot> slots = AfterStep::state(part);
  slots.push_back({"path", part});
  slots.push_back({"looked_from", part});
  return slots;
}

void LookAhead::update(const StepContext& context, std::span<const Part> parts) {
  if (context.step == 0)
    for (const Part& p : parts) backend().copy(p.weight, p.state[own_slot(p) + 1]);
  AfterStep::update(context, parts);
  const bool looks = context.step >= options_.from && (options_.until == 0 || context.step < options_.until);
  for (const Part& p : parts) {
    const std::size_t k = own_slot(p);
    backend().evaluate(formula_, {options_.decay, looks ? options_.strength : 0.0},
                       {p.weight, p.state[k], p.state[k + 1]});
  }
}

Average::Average(std::unique_ptr<UpdateRule> rule, const AverageOptions& options)
    : AfterStep(std::move(rule)), options_(options) {
  const Term decay = mean_.number(0);
  mean_.assign(1, decay * mean_.tensor(1) + (1 - decay) * mean_.tensor(0));
  const Term share = blend_.number(0);
  blend_.assign(0, (1 - share) * blend_.tensor(0) + share * blend_.tensor(1));
}

std::string Average::settings() const {
  return fmt::format("{}, evaluated at {} x average of {} from step {}", AfterStep::settings(),
                     options_.blend, options_.decay, options_.from);
}

std::vector<StateSlot> Average::state(const Shape& part) const {
  std::vector<StateSlot> slots = AfterStep::state(part);
  slots.push_back({"average", part});
  return slots;
}

namespace {

std::size_t bytes_of(std::span<const Shape> parts, DType master) {
  std::size_t bytes = 0;
  for (const Shape& s : parts)
    bytes += (static_cast<std::size_t>(s.numel()) * size_of(master) + 63) / 64 * 64;
  return bytes;
}

}  // namespace

std::size_t Average::workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const {
  return AfterStep::workspace_bytes(parts, backend) + bytes_of(parts, backend.master());
}

void Average::prepare(Backend& backend, std::span<const Shape> parts) {
  AfterStep::prepare(backend, parts);
  weights_ = backend.allocate(bytes_of(parts, backend.master()), "weights while their average is shown");
}

void Average::update(const StepContext& context, std::span<const Part> parts) {
  AfterStep::update(context, parts);
  if (context.step + 1 < options_.from) return;
  // The first mean is the weights themselves.
  const double decay = context.step + 1 == options_.from ? 0 : options_.decay;
  for (const Part& p : parts) backend().evaluate(mean_, {decay}, {p.weight, p.state[own_slot(p)]});
}

void Average::show(std::span<const Part> parts) {
  std::size_t offset = 0;
  for (const Part& p : parts) {
    const Tensor saved = weights_->view(p.weight.dtype, p.weight.shape, offset);
    backend().copy(p.weight, saved);
    backend().evaluate(blend_, {options_.blend}, {p.weight, p.state[own_slot(p)]});
    offset += (saved.bytes() + 63) / 64 * 64;
  }
}

void Average::restore(std::span<const Part> parts) {
  std::size_t offset = 0;
  for (const Part& p : parts) {
    const Tensor saved = weights_->view(p.weight.dtype, p.weight.shape, offset);
    backend().copy(saved, p.weight);
    offset += (saved.bytes() + 63) / 64 * 64;
  }
}

}  // namespace spectrain
