#include <fmt/core.h>

#include <cmath>
#include <limits>
#include <string_view>

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
  return c;
}

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
  n.flops_per_token = 6 * (n.hidden + head) + 6 * c.layers * context * c.heads * c.head_dim;
  return n;
}

}  // namespace spectrain
