#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>
#include <utility>

#include "kernels/error.h"
#include "model/transformer.h"

// Which transformers exist: the derived sizes, the refusals, and the counts.

namespace spectrain {
namespace {

// Sizes above this make products of two of them overflow, and token ids are 32-bit.
constexpr std::int64_t kLargestSize = std::numeric_limits<std::int32_t>::max();

void require_size(std::string_view name, std::int64_t value) {
  if (value < 1 || value > kLargestSize)
    throw RequestError(fmt::format("model: {} is {}; give a number from 1 to {}", name, value, kLargestSize));
}

void require_finite(std::string_view name, double value, double lowest) {
  if (!std::isfinite(value) || value < lowest)
    throw RequestError(
        fmt::format("model: {} is {}; give a finite number, at least {}", name, value, lowest));
}

void require_positive(std::string_view name, double value) {
  if (!std::isfinite(value) || value <= 0)
    throw RequestError(fmt::format("model: {} is {}; give a finite number above 0", name, value));
}

void resolve_heads(TransformerConfig& c) {
  require_size("heads", c.heads);
  if (c.head_dim == 0) {
    if (c.width % c.heads != 0)
      throw RequestError(fmt::format(
          "model: width {} is not divisible by heads {}; choose a multiple of heads or give head_dim",
          c.width, c.heads));
    c.head_dim = c.width / c.heads;
  }
  require_size("head_dim", c.head_dim);
  if (c.kv_heads == 0) c.kv_heads = c.heads;
  require_size("kv_heads", c.kv_heads);
  if (c.heads % c.kv_heads != 0)
    throw RequestError(fmt::format(
        "model: kv_heads {} does not divide heads {}; every key/value head serves equally many query heads",
        c.kv_heads, c.heads));
  require_size("heads * head_dim",
               c.heads > kLargestSize / c.head_dim ? kLargestSize + 1 : c.heads * c.head_dim);
  if (c.attention_scale == 0) c.attention_scale = 1 / std::sqrt(static_cast<double>(c.head_dim));
  require_positive("attention_scale", c.attention_scale);
}

void check_rotary(const TransformerConfig& c) {
  if (c.positions != Positions::rotary) return;
  if (c.head_dim % 2 != 0)
    throw RequestError(fmt::format(
        "model: head_dim {} is odd; rotary positions turn pairs, so give an even head_dim", c.head_dim));
  require_positive("rotary_base", c.rotary_base);
  if (!(c.rotary_fraction > 0 && c.rotary_fraction <= 1))
    throw RequestError(
        fmt::format("model: rotary_fraction is {}; give a share above 0 and at most 1, or positions: none",
                    c.rotary_fraction));
  if (c.rotary_sign != 1 && c.rotary_sign != -1)
    throw RequestError(fmt::format("model: rotary_sign is {}; give 1 or -1", c.rotary_sign));
}

void check_softcap(const Softcap& s) {
  if (s.kind == Softcap::Kind::none) return;
  require_positive("softcap.cap", s.cap);
  if (s.kind != Softcap::Kind::sigmoid) return;
  require_positive("softcap.divisor", s.divisor);
  if (!std::isfinite(s.offset))
    throw RequestError(fmt::format("model: softcap.offset is {}; give a finite number", s.offset));
}

void check_initialisation(const TransformerConfig& c) {
  require_finite("init_std", c.init_std, 0);
  require_finite("embedding_std", c.embedding_std, 0);
  require_finite("position_std", c.position_std, 0);
  if (c.zero_init_head && c.tied)
    throw RequestError(
        "model: zero_init_head with a tied head would start the embedding at zero too; set tied: false or "
        "zero_init_head: false");
}

void check_layers(const TransformerConfig& c, std::string_view name,
                  const std::vector<std::int64_t>& layers) {
  for (const std::int64_t layer : layers)
    if (layer < 0 || layer >= c.layers)
      throw RequestError(
          fmt::format("model: {} names layer {}; layers are 0 to {}", name, layer, c.layers - 1));
}

void check_visibility(const TransformerConfig& c) {
  const VisibilityConfig& v = c.visibility;
  if (v.window.size() > 2)
    throw RequestError(
        fmt::format("model: visibility.window lists {} numbers; give one, or the one at the beginning and "
                    "the one at the end",
                    v.window.size()));
  require_size("visibility.window_multiple", v.window_multiple);
  require_size("visibility.window_block", v.window_block);
  for (const std::int64_t w : v.window)
    if (w < 0 || w > kLargestSize)
      throw RequestError(
          fmt::format("model: visibility.window is {}; give tokens, from 0 to {}", w, kLargestSize));
  if (!v.window.empty() && v.window_multiple % v.window_block != 0)
    throw RequestError(
        fmt::format("model: visibility.window_block {} does not divide visibility.window_multiple {}; "
                    "windows are whole blocks",
                    v.window_block, v.window_multiple));
  check_layers(c, "visibility.short_layers", v.short_layers);
  if (v.documents && (v.document_token < 0 || v.document_token >= c.vocab))
    throw RequestError(
        fmt::format("model: visibility.document_token {} is not in the vocabulary of {}; name the token that "
                    "every document starts with",
                    v.document_token, c.vocab));
}

void check_value_mix(const TransformerConfig& c) {
  const bool tables = c.value_mix == ValueMix::table || c.value_mix == ValueMix::scaled_table;
  if (!tables && !c.value_tables.empty())
    throw RequestError("model: value_tables are given, but value_mix is not table or scaled_table");
  if (!tables) return;
  if (static_cast<std::int64_t>(c.value_tables.size()) != c.layers)
    throw RequestError(
        fmt::format("model: value_tables lists {} numbers; give one for each of the {} layers, -1 "
                    "for none",
                    c.value_tables.size(), c.layers));
  for (const std::int64_t table : c.value_tables) {
    if (table < -1 || table >= c.layers)
      throw RequestError(fmt::format("model: value_tables names table {}; tables are 0 to {}, -1 is none",
                                     table, c.layers - 1));
    if (table == -1 && c.value_mix == ValueMix::table)
      throw RequestError("model: with value_mix: table every layer has a table; scaled_table goes without");
  }
}

void check_gates(const TransformerConfig& c) {
  for (const auto& [name, inputs] :
       {std::pair{"attention_gate", c.attention_gate}, {"smear_gate", c.smear_gate}})
    if (inputs < 0 || inputs > c.width)
      throw RequestError(
          fmt::format("model: {} is {}; give how many elements of the width {} it reads, 0 for none", name,
                      inputs, c.width));
}

void check_fp8(const Fp8Head& f) {
  if (f == Fp8Head{}) return;
  require_positive("head_fp8.x_scale", f.x_scale);
  require_positive("head_fp8.weight_scale", f.weight_scale);
  require_positive("head_fp8.gradient_scale", f.gradient_scale);
}

}  // namespace

TransformerConfig TransformerConfig::resolved() const {
  TransformerConfig c = *this;
  require_size("vocab", c.vocab);
  require_size("context", c.context);
  require_size("layers", c.layers);
  require_size("width", c.width);
  if (c.padded_vocab == 0) c.padded_vocab = (c.vocab + 127) / 128 * 128;
  if (c.padded_vocab < c.vocab)
    throw RequestError(
        fmt::format("model: padded_vocab {} is below vocab {}; give at least as many rows, or 0 for "
                    "the next multiple of 128",
                    c.padded_vocab, c.vocab));
  require_size("padded_vocab", c.padded_vocab);
  resolve_heads(c);
  check_rotary(c);
  if (c.mlp_width == 0) c.mlp_width = 4 * c.width;
  require_size("mlp_width", c.mlp_width);
  if (c.norm == NormKind::rms) c.norm_bias = false;
  require_positive("norm_eps", c.norm_eps);
  if (!std::isfinite(c.attention_residual_factor))
    throw RequestError(fmt::format("model: attention_residual_factor is {}; give a finite number",
                                   c.attention_residual_factor));
  check_softcap(c.softcap);
  check_initialisation(c);
  check_visibility(c);
  check_layers(c, "layers_without_attention", c.layers_without_attention);
  check_value_mix(c);
  check_gates(c);
  check_fp8(c.head_fp8);
  return c;
}

namespace {

double attention_flops(const TransformerConfig& c, std::int64_t context) {
  const std::int64_t window = window_at(c.visibility, 1);
  const double keys = mean_keys(c.visibility, window, context) - 0.5;  // of the query's own half is spared
  const double few = mean_keys(c.visibility, short_window(c.visibility, window), context) - 0.5;
  double sum = 0;
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const auto in = [layer](const std::vector<std::int64_t>& layers) {
      return std::find(layers.begin(), layers.end(), layer) != layers.end();
    };
    if (!in(c.layers_without_attention)) sum += in(c.visibility.short_layers) ? few : keys;
  }
  return 12 * sum * static_cast<double>(c.heads * c.head_dim);
}

}  // namespace

// Counted on the recording itself, so that it cannot drift from the model.
ModelCount count(const TransformerConfig& config, std::int64_t context) {
  const TransformerConfig c = config.resolved();
  Tape tape;
  transformer(tape, c, 1, 1);
  ModelCount n;
  std::int64_t head = 0;
  for (const ParameterInfo& p : tape.parameters()) {
    const std::int64_t rows = p.logical_rows > 0 ? p.logical_rows : p.shape[0];
    const std::int64_t elements = p.shape.numel() / p.shape[0] * rows;
    n.parameters += elements;
    if (p.role == Role::hidden) n.hidden += elements;
    if (p.name == (c.tied ? "wte" : "head")) head = elements;
  }
  n.flops_per_token = 6 * (n.hidden + head) + static_cast<std::int64_t>(attention_flops(c, context));
  return n;
}

}  // namespace spectrain
