#include "model/transformer.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "model/rotary.h"

// The forward pass, as on paper:
//   x0 = x = embedding(tokens)
//   per layer:  x = x + factor attention(norm1(x));  x = x + mlp(norm2(x))
//   losses = cross_entropy(norm(x) . head^T, targets)
// and where the speedrun's switches are on, each layer begins with x = x + w skip, x = a x + b x0.

namespace spectrain {
namespace {

using Scope = Tape::Scope;
using Factor = MixFactor;

// What is the same in every layer of one recording.
struct Recorder {
  Tape& t;
  const TransformerConfig& c;
  HeadLayout layout;
  Value cos, sin;                    // rotary tables, or empty
  Value first_key, short_first_key;  // what queries see, or empty
  Value tokens, first_values;        // of the layers that mix values; the second: v of layer 0

  Value normalize(std::string_view name, Value x);
  Value linear(std::string_view name, Value x, std::int64_t out, Initializer init,
               std::vector<std::int64_t> splits = {});
  Value scalar(std::string_view name, double start);
  Value value_mix(Value qkv, std::int64_t layer);
  Value gates(std::string_view name, Value x, std::int64_t inputs, std::int64_t outputs);
  Value smeared(Value x);
  Value attention(Value x, std::int64_t layer);
  Value mlp(Value x);
  Value trunk(Value wte);
  Value embedding_table();
  Value value_table(std::int64_t index, std::int64_t width);
};

Initializer weight_init(const TransformerConfig& c, std::int64_t fan_in, double factor = 1) {
  const double per_input = 1 / std::sqrt(static_cast<double>(fan_in));
  switch (c.init) {
    case WeightInit::normal:
      return Initializer::normal(factor * c.init_std);
    case WeightInit::fan_in_normal:
      return Initializer::normal(factor * c.init_std * per_input);
    case WeightInit::fan_in_uniform:
      return Initializer::uniform(factor * c.init_std * std::sqrt(3.0) * per_input);
  }
  throw std::logic_error("unknown WeightInit");
}

// Matrices that write into the residual stream: it is a sum of 2 * layers of their outputs, so each starts
// smaller by the square root of that number and the stream's variance does not grow with depth.
Initializer residual_init(const TransformerConfig& c, std::int64_t fan_in) {
  if (c.zero_init_projections) return Initializer::zeros();
  return weight_init(c, fan_in,
                     c.residual_scaling ? 1 / std::sqrt(2.0 * static_cast<double>(c.layers)) : 1.0);
}

Value Recorder::normalize(std::string_view name, Value x) {
  const Scope in(t, name);
  Value gain, bias;
  if (c.norm_gain) gain = t.parameter("gain", {c.width}, Role::gain, Initializer::ones());
  if (c.norm_bias) bias = t.parameter("bias", {c.width}, Role::bias, Initializer::zeros());
  return t.norm(c.norm, x, gain, bias, c.norm_eps);
}

Value Recorder::linear(std::string_view name, Value x, std::int64_t out, Initializer init,
                       std::vector<std::int64_t> splits) {
  const Scope in(t, name);
  Value weight = t.parameter("weight", {out, t.shape(x).cols()}, Role::hidden, init, std::move(splits));
  Value bias;
  if (c.linear_bias) bias = t.parameter("bias", {out}, Role::bias, Initializer::zeros());
  return t.linear(x, weight, bias);
}

bool contains(const std::vector<std::int64_t>& layers, std::int64_t layer) {
  return std::find(layers.begin(), layers.end(), layer) != layers.end();
}

// Which first keys the layers with attention read: those of the whole window, and those of half of it.
struct SeenBy {
  bool all = false, few = false;
};
SeenBy seen_by(const TransformerConfig& c) {
  SeenBy by;
  if (!c.visibility.masks()) return by;
  for (std::int64_t layer = 0; layer < c.layers; ++layer)
    if (!contains(c.layers_without_attention, layer))
      (contains(c.visibility.short_layers, layer) ? by.few : by.all) = true;
  return by;
}

Value Recorder::scalar(std::string_view name, double start) {
  return t.parameter(name, {1}, Role::scalar, Initializer{Initializer::Kind::constant, start});
}

// The values of a layer's packed q, k and v, mixed with others.
Value Recorder::value_mix(Value qkv, std::int64_t layer) {
  const std::int64_t width = c.kv_heads * c.head_dim, first = c.heads * c.head_dim + width;
  const Value v = t.columns(qkv, first, width);
  if (!first_values) first_values = v;
  Value other = first_values;
  if (c.value_mix != ValueMix::first_layer) {
    const std::int64_t table = c.value_tables[static_cast<std::size_t>(layer)];
    other = table < 0 ? Value{} : t.embedding(tokens, value_table(table, width), {}, layout.context);
  }
  Value mixed;
  if (c.value_mix == ValueMix::scaled_table) {
    const Value own = scalar("value_scale", 0.5);
    mixed = other ? t.mix({v, other}, {Factor::of(0), Factor::of(1)}, {own, scalar("table_scale", 0.5)})
                  : t.mix({v}, {Factor::of(0)}, {own});
  } else {
    mixed = t.mix({v, other}, {Factor::rest_of(0), Factor::of(0)}, {scalar("value_mix", 0.5)});
  }
  return t.with_columns(qkv, first, mixed);
}

// sigmoid(W x[:, :inputs]), W zero at first  [R, outputs]
Value Recorder::gates(std::string_view name, Value x, std::int64_t inputs, std::int64_t outputs) {
  const Scope in(t, name);
  const Value weight = t.parameter("weight", {outputs, inputs}, Role::hidden, Initializer::zeros());
  return t.activation(Activation::sigmoid, t.linear(t.columns(x, 0, inputs), weight));
}

Value Recorder::smeared(Value x) {
  const Scope in(t, "smear");
  const Value before = t.gate(t.previous(x, layout.context), gates("gate", x, c.smear_gate, 1));
  return t.mix({x, before}, {Factor::one(), Factor::of(0)}, {scalar("factor", 0)});
}

Value Recorder::attention(Value x, std::int64_t layer) {
  const Scope in(t, "attention");
  const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  Value qkv = linear("qkv", x, q + 2 * kv, weight_init(c, c.width), {q, kv, kv});  // [R, q|k|v]
  if (c.value_mix != ValueMix::none) qkv = value_mix(qkv, layer);
  if (c.qk_norm || cos)
    qkv = t.qk_transform(qkv, layout, c.qk_norm, c.norm_eps, cos, sin, c.rotary_pairs, c.rotary_sign);
  const bool sees_less = short_first_key && contains(c.visibility.short_layers, layer);
  Value mixed = t.attention(qkv, layout, c.attention_scale,
                            sees_less ? short_first_key : first_key);  // [R, heads * head_dim]
  if (c.attention_gate > 0) mixed = t.gate(mixed, gates("gate", x, c.attention_gate, c.heads));
  return linear("out", mixed, c.width, residual_init(c, q));
}

Activation activation_of(MlpKind kind) {
  switch (kind) {
    case MlpKind::gelu:
      return Activation::gelu;
    case MlpKind::gelu_tanh:
      return Activation::gelu_tanh;
    case MlpKind::relu2:
      return Activation::relu2;
    case MlpKind::swiglu:
      break;
  }
  throw std::logic_error("this MLP kind is not a single activation");
}

Value Recorder::mlp(Value x) {
  const Scope in(t, "mlp");
  const std::int64_t f = c.mlp_width;
  const Initializer up = weight_init(c, c.width);
  Value inner;  // [R, f]
  if (c.mlp == MlpKind::swiglu)
    inner = t.swiglu(linear("up", x, 2 * f, up, {f, f}));  // gate | up
  else
    inner = t.activation(activation_of(c.mlp), linear("up", x, f, up));
  return linear("down", inner, c.width, residual_init(c, f));
}

Value Recorder::embedding_table() {
  const Initializer init = c.embedding_init == EmbeddingInit::normal
                               ? Initializer::normal(c.embedding_std)
                               : Initializer::uniform(c.embedding_std * std::sqrt(3.0));
  return t.parameter("wte", {c.padded_vocab, c.width}, Role::embedding, init, {}, c.vocab);
}

// From tokens to the normalised last hidden state [batch * context, width].
Value Recorder::trunk(Value wte) {
  Value wpe;
  if (c.positions == Positions::learned)
    wpe = t.parameter("wpe", {c.context, c.width}, Role::embedding, Initializer::normal(c.position_std));
  Value x = t.embedding(tokens, wte, wpe, layout.context);
  if (c.smear_gate > 0) x = smeared(x);
  if (c.embedding_norm) x = normalize("embedding_norm", x);
  const Value x0 = x;
  std::vector<Value> skips;
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const Scope in(t, "h", layer);
    if (c.skips && layer >= c.layers - static_cast<std::int64_t>(skips.size())) {
      x = t.mix({x, skips.back()}, {Factor::one(), Factor::of(0)}, {scalar("skip", 1)});
      skips.pop_back();
    }
    if (c.x0_lambdas)
      x = t.mix({x, x0}, {Factor::of(0), Factor::of(1)}, {scalar("lambda", 1), scalar("lambda0", 0)});
    if (!contains(c.layers_without_attention, layer)) {
      Value mixed = attention(normalize("norm1", x), layer);
      if (c.attention_residual_factor != 1) mixed = t.scale(mixed, c.attention_residual_factor);
      x = t.add(x, mixed);
    }
    x = t.add(x, mlp(normalize("norm2", x)));
    if (c.skips && layer < c.layers / 2) skips.push_back(x);
  }
  return normalize("norm", x);
}

// Shared by the layers that name it, and so declared outside of their scopes.
Value Recorder::value_table(std::int64_t index, std::int64_t width) {
  const Tape::Unscoped outside(t);
  return t.parameter("value_embedding." + std::to_string(index), {c.padded_vocab, width}, Role::embedding,
                     Initializer::normal(c.embedding_std), {}, c.vocab);
}

struct HeadInputs {
  Value x, weight, bias;
};

HeadInputs record_up_to_head(Tape& t, const TransformerConfig& c, std::int64_t batch, std::int64_t context) {
  if (batch < 1 || context < 1 || context > c.context)
    throw std::logic_error("transformer: batch " + std::to_string(batch) + " and context " +
                           std::to_string(context) + " must be at least 1, and context at most " +
                           std::to_string(c.context));
  if (c.head_dim == 0 || c.kv_heads == 0 || c.padded_vocab == 0 || c.mlp_width == 0 || c.attention_scale == 0)
    throw std::logic_error("transformer: the configuration must be resolved() first");
  Recorder r{t, c, {batch, context, c.heads, c.kv_heads, c.head_dim}, {}, {}, {}, {}, {}, {}};
  if (c.positions == Positions::rotary) {
    RotaryTable table = rotary_table(c, context);
    r.cos = t.constant("rotary.cos", {context, c.head_dim / 2}, std::move(table.cos));
    r.sin = t.constant("rotary.sin", {context, c.head_dim / 2}, std::move(table.sin));
  }
  r.tokens = t.input("tokens", {batch * context});
  const SeenBy by = seen_by(c);
  if (by.all) r.first_key = t.input("first_key", {batch * context});
  if (by.few) r.short_first_key = t.input("first_key.short", {batch * context});
  const Value wte = r.embedding_table();
  HeadInputs h;
  h.x = r.trunk(wte);
  const Initializer init = c.zero_init_head ? Initializer::zeros() : weight_init(c, c.width);
  h.weight = c.tied ? wte : t.parameter("head", {c.padded_vocab, c.width}, Role::head, init, {}, c.vocab);
  if (c.head_bias)
    h.bias = t.parameter("head.bias", {c.padded_vocab}, Role::bias, Initializer::zeros(), {}, c.vocab);
  return h;
}

}  // namespace

void set_tokens(Program& program, const TransformerConfig& c, std::span<const std::int32_t> tokens,
                std::int64_t context, double progress) {
  program.set_input("tokens", tokens);
  if (!c.visibility.masks()) return;
  const std::int64_t window = window_at(c.visibility, progress);
  std::vector<std::int32_t> first(tokens.size());
  const auto set = [&](std::string_view name, std::int64_t width) {
    first_keys(c.visibility, width, tokens, context, first);
    program.set_input(name, first);
  };
  const SeenBy by = seen_by(c);
  if (by.all) set("first_key", window);
  if (by.few) set("first_key.short", short_window(c.visibility, window));
}

Value transformer(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context) {
  const HeadInputs h = record_up_to_head(tape, c, batch, context);
  const Value targets = tape.input("targets", {batch * context});
  return tape.cross_entropy(h.x, h.weight, h.bias, targets, c.vocab, c.softcap, c.head_fp8);
}

Value transformer_hidden(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context) {
  return record_up_to_head(tape, c, batch, context).x;
}

Value transformer_logits(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context) {
  const HeadInputs h = record_up_to_head(tape, c, batch, context);
  return tape.linear(h.x, h.weight, h.bias);
}

}  // namespace spectrain
