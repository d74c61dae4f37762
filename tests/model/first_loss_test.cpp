#include <gtest/gtest.h>

#include <cmath>

#include "tests/model/model_run.h"

// The loss before the first step, which the speedrun's logs print: at the real vocabulary and at no other.

namespace spectrain::test {
namespace {

constexpr std::int64_t kVocab = 50304;

TransformerConfig record5(std::int64_t layers, std::int64_t width, std::int64_t context) {
  TransformerConfig c;
  c.vocab = kVocab;
  c.context = context;
  c.layers = layers;
  c.width = width;
  c.heads = width / 16;
  c.qk_norm = true;
  c.positions = Positions::rotary;
  c.norm = NormKind::rms;
  c.norm_gain = false;
  c.mlp = MlpKind::relu2;
  c.linear_bias = false;
  c.zero_init_projections = true;
  c.init = WeightInit::fan_in_uniform;
  c.init_std = 1 / std::sqrt(3.0);
  c.embedding_init = EmbeddingInit::uniform;  // the head's: torch's default
  c.embedding_std = 1 / std::sqrt(3.0 * static_cast<double>(width));
  return c;
}

TransformerConfig record8() {
  TransformerConfig c = record5(4, 32, 16);
  c.tied = false;
  c.zero_init_head = true;
  c.embedding_norm = true;
  c.embedding_init = EmbeddingInit::normal;
  c.embedding_std = 1;
  return c;
}

TransformerConfig record9() {
  TransformerConfig c = record8();
  c.x0_lambdas = true;
  c.value_mix = ValueMix::first_layer;
  c.softcap = {Softcap::Kind::tanh, 30, 1, 0};
  return c;
}

TransformerConfig record11() {
  TransformerConfig c = record9();
  c.skips = true;
  return c;
}

TransformerConfig record20() {
  TransformerConfig c = record11();
  c.value_mix = ValueMix::scaled_table;
  c.value_tables = {0, -1, -1, 0};
  c.layers_without_attention = {2};
  c.visibility.documents = true;
  c.visibility.window = {128};
  c.visibility.window_multiple = c.visibility.window_block = 128;
  c.visibility.short_layers = {1};
  c.softcap = {Softcap::Kind::sigmoid, 30, 7.5, 0};  // 15 for every token
  return c;
}

TransformerConfig track3() {
  TransformerConfig c = record8();
  c.norm_gain = c.linear_bias = c.head_bias = true;
  c.init = WeightInit::fan_in_normal;
  c.init_std = std::sqrt(0.33);
  c.softcap = {Softcap::Kind::rational, 15, 1, 0};
  return c;
}

double first_loss(const TransformerConfig& c, std::int64_t batch) {
  const auto backend = make_cpu_backend();
  ModelRun model(*backend, c, batch, c.context, {.training = false});
  model.parameters().initialize(1);
  model.parameters().refresh();
  const std::int64_t n = batch * c.context;
  model.set_batch(some_tokens(n, 50257, 1), some_tokens(n, 50257, 2));
  return model.mean_loss();
}

// A sum of 50304 ones in float32, taken in any order, and its logarithm: 4 eps sqrt(K).
TEST(FirstLoss, OfZeroHeadIsLogVocab) {
  const double tolerance = 4 * 0x1p-23 * std::sqrt(static_cast<double>(kVocab));
  for (const TransformerConfig& c : {record8(), record9(), record11(), record20(), track3()})
    EXPECT_NEAR(first_loss(c, 1), std::log(static_cast<double>(kVocab)), tolerance);
}

// #5 to #7: the layers add nothing yet, so a token's final state is its own embedding e over its root mean
// square, and its logit of itself sqrt(768) |e|, 16.00 on average. That logit is nearly the whole log sum
// exp, and varies by 0.26 between tokens; the target's own logit is 0 on average and varies by sqrt(1/3).
TEST(FirstLoss, OfTiedHeadWithZeroProjectionsIsSixteen) {
  const std::int64_t batch = 4, context = 64;
  const double deviation = std::sqrt((0.26 * 0.26 + 1.0 / 3) / static_cast<double>(batch * context));
  EXPECT_NEAR(first_loss(record5(2, 768, context), batch), 16.00, 4 * deviation);
}

}  // namespace
}  // namespace spectrain::test
