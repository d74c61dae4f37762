#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "model/program.h"
#include "model/tape.h"
#include "model/visibility.h"

namespace spectrain {

enum class Positions : std::uint8_t { learned, rotary, none };
enum class MlpKind : std::uint8_t { gelu, gelu_tanh, relu2, swiglu };
enum class WeightInit : std::uint8_t {
  normal,          // N(0, init_std^2)                                            (GPT-2)
  fan_in_normal,   // N(0, init_std^2 / fan_in)                                    (track 3: init_std =
                   // sqrt(.33))
  fan_in_uniform,  // U(-b, b), b = init_std sqrt(3 / fan_in); init_std = 1/sqrt(3) is torch's Linear default
};

enum class EmbeddingInit : std::uint8_t {
  normal,   // N(0, embedding_std^2)
  uniform,  // U(-b, b), b = embedding_std sqrt(3)                                 (speedrun #2: the head's)
};

// What is mixed into the values v of a layer's attention, with learned scalars l (speedrun).
enum class ValueMix : std::uint8_t {
  none,
  first_layer,   // (1 - l) v + l v1, v1 = the values of layer 0 before its mix; l starts at .5   (#9)
  table,         // (1 - l) v + l e, e = the token's row of a table; l starts at .5               (#14)
  scaled_table,  // a v + b e, without a table a v; a, b start at .5                              (#15)
};

// One transformer architecture with orthogonal switches. Defaults are GPT-2 124M.
struct TransformerConfig {
  std::int64_t vocab = 50257;
  std::int64_t padded_vocab = 0;  // rows of embedding and head; 0: vocab rounded up to a multiple of 128
  std::int64_t context = 1024;  // longest sequence (learned positions need it; rotary tables are made for it)
  std::int64_t layers = 12;
  std::int64_t width = 768;
  std::int64_t heads = 12;
  std::int64_t kv_heads = 0;   // 0: as many as heads
  std::int64_t head_dim = 0;   // 0: width / heads
  double attention_scale = 0;  // 0: 1 / sqrt(head_dim)
  bool qk_norm = false;        // RMS norm of q and k per head, without gain, before the rotation

  Positions positions = Positions::learned;
  double rotary_base = 10000;
  double rotary_fraction = 1;  // this share of the pairs turns, the slowest rest stays (track 3: 0.5);
                               // turning pairs have angles base^-(i / turning pairs), i = 0.. (see rotary.h)
  bool rotary_to_end =
      false;  // true: angles base^-linspace(0, 1, turning pairs) (speedrun #17 onward, track 3)
  RotaryPairs rotary_pairs = RotaryPairs::halves;
  int rotary_sign = 1;

  MlpKind mlp = MlpKind::gelu_tanh;
  std::int64_t mlp_width = 0;  // 0: 4 width

  NormKind norm = NormKind::layer;
  bool norm_gain = true;
  bool norm_bias = true;  // layer norm only
  double norm_eps = 1e-5;
  bool embedding_norm = false;  // a norm right after the embedding

  bool linear_bias = true;  // biases of qkv, attention output, MLP
  bool head_bias = false;
  bool tied = true;  // the head is the embedding
  Softcap softcap;

  WeightInit init = WeightInit::normal;
  double init_std = 0.02;
  double embedding_std = 0.02;  // token embedding, always normal
  double position_std = 0.01;   // learned positions (GPT-2: 0.01 in OpenAI's code, 0.02 in most rewrites)
  bool residual_scaling =
      true;  // projections into the residual stream start smaller by 1/sqrt(2 layers) (GPT-2)
  bool zero_init_projections = false;  // they start at zero (overrides residual_scaling)
  bool zero_init_head = false;
  EmbeddingInit embedding_init = EmbeddingInit::normal;
  double attention_residual_factor = 1;  // x += factor * attention(...) (speedrun #2, #4: 1/sqrt(24))

  // What the speedrun's later records added. Layers count from 0; their learned scalars have the role scalar.
  VisibilityConfig visibility;
  bool x0_lambdas =
      false;  // each layer begins with x = a x + b x0, x0 = the (normed) embedding; a, b start at 1, 0
  bool skips =
      false;  // layer L - 1 - i begins with x += w y_i, y_i = what layer i gave, i < L/2; w starts at 1
  ValueMix value_mix = ValueMix::none;
  std::vector<std::int64_t> value_tables;  // the table of each layer; -1: none ([0, 1, 2, -1, ..., 0, 1, 2])
  std::vector<std::int64_t> layers_without_attention;
  // Gates made from the first so many elements of a position's vector; 0: no gate.
  std::int64_t attention_gate = 0;  // each head's output times sigmoid(W x), W zero at first          (#28)
  std::int64_t smear_gate =
      0;  // of the embedding: x[t] += l sigmoid(w x[t]) x[t-1], l, w zero at first (#34)

  Fp8Head head_fp8;  // in training; its validation reads the head as it is       (#19)

  bool operator==(const TransformerConfig&) const = default;

  // Fills every 0-means-derived field in; throws RequestError with one sentence when the numbers do not fit
  // (width not divisible by heads, odd head_dim with rotary, kv_heads not dividing heads, ...).
  TransformerConfig resolved() const;
};

// Records the whole model: losses [batch * context]. `tokens` and `targets` become inputs of these names,
// i32, and where c.visibility masks anything, `first_key` and `first_key.short` too. c must be resolved();
// context <= c.context.
Value transformer(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context);

// Records the model up to the normalised last hidden state [batch * context, width]: sampling multiplies only
// the row it needs by the head. Same parameters, same names.
Value transformer_hidden(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context);

// Records the model up to the logits [batch * context, padded_vocab] (softcap applied by sampling code): for
// sampling and evaluation of endings. Same parameters, same names.
Value transformer_logits(Tape& tape, const TransformerConfig& c, std::int64_t batch, std::int64_t context);

// Sets what a program of any of the three reads of its tokens [batch * context]: themselves, and the first
// keys that their queries see at `progress` of the training (visibility.h).
void set_tokens(Program& program, const TransformerConfig& c, std::span<const std::int32_t> tokens,
                std::int64_t context, double progress);

struct ModelCount {
  std::int64_t parameters = 0;       // logical (vocabulary padding not counted), tied weights once
  std::int64_t hidden = 0;           // of these, hidden matrices
  std::int64_t flops_per_token = 0;  // forward + backward matrix products: 6 per weight in a product,
                                     // + 12 keys heads head_dim for each layer's attention, keys = what a
                                     // query sees on average at the end of training (context / 2)
};
ModelCount count(const TransformerConfig& c, std::int64_t context);

}  // namespace spectrain
