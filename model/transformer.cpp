#include "model/transformer.h"

#include <cmath>
#include <stdexcept>
#include <string>

#include "model/rotary.h"

// The forward pass, as on paper:
//   x = embedding(tokens)
//   per layer:  x = x + factor attention(norm1(x));  x = x + mlp(norm2(x))
//   losses = cross_entropy(norm(x) . head^T, targets)

namespace spectrain {
namespace {

using Scope = Tape::Scope;

// What is the same in every layer of one recording.
struct Recorder {
  Tape& t;
  const TransformerConfig& c;
  HeadLayout layout;
  Value cos, sin;  // rotary tables, or empty

  Value normalize(std::string_view name, Value x);
  Value linear(std::string_view name, Value x, std::int64_t out, Initializer init,
               std::vector<std::int64_t> splits = {});
  Value attention(Value x);
  Value mlp(Value x);
  Value trunk(Value tokens, Value wte);
  Value embedding_table();
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

Value Recorder::attention(Value x) {
  const Scope in(t, "attention");
  const std::int64_t q = c.heads * c.head_dim, kv = c.kv_heads * c.head_dim;
  Value qkv = linear("qkv", x, q + 2 * kv, weight_init(c, c.width), {q, kv, kv});  // [R, q|k|v]
  if (c.qk_norm || cos)
    qkv = t.qk_transform(qkv, layout, c.qk_norm, c.norm_eps, cos, sin, c.rotary_pairs, c.rotary_sign);
  Value mixed = t.attention(qkv, layout, c.attention_scale);  // [R, heads * head_dim]
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
  return t.parameter("wte", {c.padded_vocab, c.width}, Role::embedding, Initializer::normal(c.embedding_std),
                     {}, c.vocab);
}

// From tokens to the normalised last hidden state [batch * context, width].
Value Recorder::trunk(Value tokens, Value wte) {
  Value wpe;
  if (c.positions == Positions::learned)
    wpe = t.parameter("wpe", {c.context, c.width}, Role::embedding, Initializer::normal(c.position_std));
  Value x = t.embedding(tokens, wte, wpe, layout.context);
  if (c.embedding_norm) x = normalize("embedding_norm", x);
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const Scope in(t, "h", layer);
    Value mixed = attention(normalize("norm1", x));
    if (c.attention_residual_factor != 1) mixed = t.scale(mixed, c.attention_residual_factor);
    x = t.add(x, mixed);
    x = t.add(x, mlp(normalize("norm2", x)));
  }
  return normalize("norm", x);
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
  Recorder r{t, c, {batch, context, c.heads, c.kv_heads, c.head_dim}, {}, {}};
  if (c.positions == Positions::rotary) {
    RotaryTable table = rotary_table(c, context);
    r.cos = t.constant("rotary.cos", {context, c.head_dim / 2}, std::move(table.cos));
    r.sin = t.constant("rotary.sin", {context, c.head_dim / 2}, std::move(table.sin));
  }
  const Value tokens = t.input("tokens", {batch * context});
  const Value wte = r.embedding_table();
  HeadInputs h;
  h.x = r.trunk(tokens, wte);
  const Initializer init = c.zero_init_head ? Initializer::zeros() : weight_init(c, c.width);
  h.weight = c.tied ? wte : t.parameter("head", {c.padded_vocab, c.width}, Role::head, init, {}, c.vocab);
  if (c.head_bias)
    h.bias = t.parameter("head.bias", {c.padded_vocab}, Role::bias, Initializer::zeros(), {}, c.vocab);
  return h;
}

}  // namespace

Value transformer(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context) {
  const HeadInputs h = record_up_to_head(tape, c, batch, context);
  const Value targets = tape.input("targets", {batch * context});
  return tape.cross_entropy(h.x, h.weight, h.bias, targets, c.vocab, c.softcap);
}

Value transformer_hidden(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context) {
  return record_up_to_head(tape, c, batch, context).x;
}

Value transformer_logits(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context) {
  const HeadInputs h = record_up_to_head(tape, c, batch, context);
  return tape.linear(h.x, h.weight, h.bias);
}

}  // namespace spectrain
