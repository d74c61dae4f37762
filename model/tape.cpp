#include "model/tape.h"

#include <fmt/format.h>

#include "model/operations.h"
#include "model/recording.h"

namespace spectrain {

std::string_view name_of(Role role) {
  switch (role) {
    case Role::embedding:
      return "embedding";
    case Role::head:
      return "head";
    case Role::hidden:
      return "hidden";
    case Role::gain:
      return "gain";
    case Role::bias:
      return "bias";
    case Role::scalar:
      return "scalar";
    case Role::fixed:
      return "fixed";
  }
  throw std::logic_error("unknown role");
}

Tape::Tape() : recording_(std::make_shared<Recording>()) {}
Tape::~Tape() = default;
Tape::Tape(Tape&&) noexcept = default;
Tape& Tape::operator=(Tape&&) noexcept = default;

const std::vector<ParameterInfo>& Tape::parameters() const { return recording_->parameters; }
Shape Tape::shape(Value v) const { return recording_->values.at(static_cast<std::size_t>(v.id)).shape; }

namespace {

Value append(Tape::Recording& r, Tape::Recording::ValueInfo info) {
  r.values.push_back(std::move(info));
  return {static_cast<int>(r.values.size()) - 1};
}

}  // namespace

Value Tape::input(std::string_view name, Shape shape) {
  return append(*recording_, {Recording::Kind::input, shape, false, false, -1, -1, std::string(name)});
}

Value Tape::real_input(std::string_view name, Shape shape) {
  Recording::ValueInfo info{Recording::Kind::input, shape, false, false, -1, -1, std::string(name)};
  info.real = true;
  return append(*recording_, std::move(info));
}

Value Tape::parameter(std::string_view name, Shape shape, Role role, Initializer init,
                      std::vector<std::int64_t> splits, std::int64_t logical_rows) {
  Recording& r = *recording_;
  const std::string full = r.scope + std::string(name);
  for (std::size_t i = 0; i < r.parameters.size(); ++i) {
    if (r.parameters[i].name != full) continue;
    if (r.parameters[i].shape != shape)
      throw std::logic_error(fmt::format("parameter {} declared as {} and as {}", full,
                                         r.parameters[i].shape.str(), shape.str()));
    return {r.parameter_values[i]};
  }
  std::int64_t sum = 0;
  for (const std::int64_t rows : splits) sum += rows;
  if (!splits.empty() && sum != shape[0])
    throw std::logic_error(
        fmt::format("the splits of parameter {} {} do not sum to its rows", full, shape.str()));
  const int index = static_cast<int>(r.parameters.size());
  r.parameters.push_back(
      {full, shape, role, init, std::move(splits), logical_rows > 0 ? logical_rows : shape[0]});
  const Value v = append(r, {Recording::Kind::parameter, shape, true, false, index, -1, full});
  r.parameter_values.push_back(v.id);
  return v;
}

Value Tape::constant(std::string_view name, Shape shape, std::vector<double> values) {
  Recording& r = *recording_;
  if (static_cast<std::int64_t>(values.size()) != shape.numel())
    throw std::logic_error(fmt::format("constant {} {} given {} values", name, shape.str(), values.size()));
  const int index = static_cast<int>(r.constants.size());
  r.constants.push_back({std::move(values)});
  return append(r, {Recording::Kind::constant, shape, true, false, index, -1, std::string(name)});
}

Value Tape::record(std::unique_ptr<Operation> op, std::vector<Value> inputs) {
  Recording& r = *recording_;
  Recording::Node node;
  for (const Value v : inputs) node.inputs.push_back(v.id);
  node.scope = r.scope;
  node.op = std::move(op);
  const std::vector<ValueSpec> specs = node.op->outputs(r.input_shapes(node));
  const int index = static_cast<int>(r.nodes.size());
  for (const ValueSpec& s : specs) {
    const std::string name = fmt::format("{}{}", r.scope, node.op->name());
    node.outputs.push_back(
        append(r, {Recording::Kind::result, s.shape, s.master, false, -1, index, name}).id);
  }
  r.nodes.push_back(std::move(node));
  return {r.nodes.back().outputs[0]};
}

Value Tape::embedding(Value tokens, Value table, Value positions, std::int64_t context) {
  return record(make_embedding(context), {tokens, table, positions});
}
Value Tape::linear(Value x, Value w, Value bias) { return record(make_linear(), {x, w, bias}); }
Value Tape::activation(Activation act, Value x) { return record(make_activation(act), {x}); }
Value Tape::swiglu(Value x) { return record(make_swiglu(), {x}); }
Value Tape::add(Value a, Value b) { return record(make_add(), {a, b}); }
Value Tape::scale(Value x, double factor) { return record(make_scale(factor), {x}); }
Value Tape::norm(NormKind kind, Value x, Value gain, Value bias, double eps) {
  return record(make_norm(kind, eps), {x, gain, bias});
}
Value Tape::qk_transform(Value qkv, const HeadLayout& layout, bool norm, double eps, Value cos, Value sin,
                         RotaryPairs pairs, int sign) {
  return record(make_qk_transform(layout, norm, eps, pairs, sign), {qkv, cos, sin});
}
Value Tape::attention(Value qkv, const HeadLayout& layout, double scale, Value first_key) {
  return record(make_attention(layout, scale), {qkv, first_key});
}
Value Tape::mix(std::vector<Value> terms, std::vector<MixFactor> factors, const std::vector<Value>& weights) {
  if (terms.size() != factors.size()) throw std::logic_error("mix: a factor for each term");
  terms.insert(terms.end(), weights.begin(), weights.end());
  return record(make_mix(std::move(factors)), std::move(terms));
}
Value Tape::columns(Value x, std::int64_t first, std::int64_t count) {
  return record(make_columns(first, count), {x});
}
Value Tape::with_columns(Value x, std::int64_t first, Value v) {
  return record(make_with_columns(first, shape(v).cols()), {x, v});
}
Value Tape::gate(Value x, Value gates) { return record(make_gate(), {x, gates}); }
Value Tape::unfold(Value x, const Patches& patches) { return record(make_unfold(patches), {x}); }
Value Tape::pool(PoolKind kind, Value x, const Patches& patches) {
  return record(make_pool(kind, patches), {x});
}
Value Tape::reshape(Value x, Shape shape) { return record(make_reshape(shape), {x}); }
Value Tape::convolution(Value x, Value filters, const Patches& patches) {
  return record(make_convolution(patches), {x, filters});
}
Value Tape::batch_norm(Value x, Value gain, Value bias, double eps, const RunningStatistics& running) {
  return record(make_batch_norm(eps, running.momentum), {x, gain, bias, running.mean, running.variance});
}
Value Tape::squared_error(Value y, Value target, Value mask) {
  return record(make_squared_error(), {y, target, mask});
}
Value Tape::class_loss(Value logits, Value targets, double smoothing) {
  return record(make_class_loss(smoothing), {logits, targets});
}
Value Tape::previous(Value x, std::int64_t context) { return record(make_previous(context), {x}); }
Value Tape::cross_entropy(Value x, Value head, Value bias, Value targets, std::int64_t vocab,
                          const Softcap& cap, const Fp8Head& fp8) {
  return record(make_cross_entropy(vocab, cap, fp8), {x, head, bias, targets});
}

Tape::Scope::Scope(Tape& tape, std::string_view name) : tape_(tape), length_(tape.recording_->scope.size()) {
  tape.recording_->scope += std::string(name) + ".";
}
Tape::Scope::Scope(Tape& tape, std::string_view name, std::int64_t index)
    : Scope(tape, fmt::format("{}.{}", name, index)) {}
Tape::Scope::~Scope() { tape_.recording_->scope.resize(length_); }

Tape::Unscoped::Unscoped(Tape& tape) : tape_(tape), scope_(std::move(tape.recording_->scope)) {
  tape.recording_->scope.clear();
}
Tape::Unscoped::~Unscoped() { tape_.recording_->scope = std::move(scope_); }

}  // namespace spectrain
