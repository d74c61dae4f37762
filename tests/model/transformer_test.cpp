#include "model/transformer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/error.h"
#include "model/rotary.h"

// What a configuration becomes: sizes, refusals, parameters, rotary angles.

namespace spectrain::test {
namespace {

using testing::HasSubstr;

TransformerConfig gpt2(std::int64_t layers, std::int64_t width, std::int64_t heads) {
  TransformerConfig c;
  c.layers = layers;
  c.width = width;
  c.heads = heads;
  return c;
}

// Published sizes (Radford et al. 2019 with the corrected counts of OpenAI's repository).
TEST(ModelCount, Gpt2Sizes) {
  EXPECT_EQ(count(gpt2(12, 768, 12), 1024).parameters, 124439808);
  EXPECT_EQ(count(gpt2(24, 1024, 16), 1024).parameters, 354823168);
  EXPECT_EQ(count(gpt2(36, 1280, 20), 1024).parameters, 774030080);
  EXPECT_EQ(count(gpt2(48, 1600, 25), 1024).parameters, 1557611200);
}

TEST(ModelCount, HiddenAndFlops) {
  const ModelCount n = count(gpt2(12, 768, 12), 1024);
  EXPECT_EQ(n.hidden, 12 * 12 * 768 * 768);
  EXPECT_EQ(n.flops_per_token, 6 * (n.hidden + 50257 * 768) + 6 * 12 * 1024 * 768);
}

// Track 3's baseline of modded-nanogpt: 162.4M parameters, its vocabulary being 50304.
TEST(ModelCount, SpeedrunTrack3) {
  TransformerConfig c = gpt2(12, 768, 6);
  c.vocab = 50304;
  c.positions = Positions::rotary;
  c.norm = NormKind::rms;
  c.embedding_norm = true;
  c.mlp = MlpKind::relu2;
  c.tied = false;
  c.head_bias = true;
  const std::int64_t block = 12 * 768 * 768 + (3 + 1 + 4 + 1) * 768 + 2 * 768;
  EXPECT_EQ(count(c, 1024).parameters, 12 * block + 2 * 50304 * 768 + 50304 + 2 * 768);
  EXPECT_EQ(count(c, 1024).parameters, 162354816);
  c.vocab = 50257;
  EXPECT_EQ(count(c, 1024).parameters, 12 * block + 2 * 50257 * 768 + 50257 + 2 * 768)
      << "padding is not counted";
}

// "162.2M" and "275.6M" (speedrun records 8 to 11, and 20).
TEST(ModelCount, SpeedrunRecords) {
  TransformerConfig c = gpt2(12, 768, 6);
  c.vocab = 50304;
  c.positions = Positions::rotary;
  c.norm = NormKind::rms;
  c.norm_gain = false;
  c.linear_bias = false;
  c.embedding_norm = true;
  c.tied = false;
  const std::int64_t matrices = 12 * 12 * 768 * 768, table = 50304 * 768;
  EXPECT_EQ(count(c, 1024).parameters, matrices + 2 * table);
  EXPECT_NEAR(static_cast<double>(matrices + 2 * table), 162.2e6, 0.05e6);
  c.x0_lambdas = c.skips = true;
  c.value_mix = ValueMix::first_layer;
  EXPECT_EQ(count(c, 1024).parameters, matrices + 2 * table + 12 * 2 + 12 + 6);
  c.value_mix = ValueMix::scaled_table;
  c.value_tables = {0, 1, 2, -1, -1, -1, -1, -1, -1, 0, 1, 2};
  c.layers_without_attention = {7};
  c.visibility.window = {0, 1728};
  c.visibility.window_multiple = c.visibility.window_block = 128;
  c.visibility.window_rounds_up = true;
  c.visibility.short_layers = {1, 2, 3, 5, 6, 8, 9, 10};
  const ModelCount n = count(c, 65536);
  EXPECT_EQ(n.parameters, matrices - 4 * 768 * 768 + 5 * table + 12 * 2 + 6 + 11 + 6);
  EXPECT_NEAR(static_cast<double>(n.parameters), 275.6e6, 0.3e6);  // its tables have 50257 rows
  // Attention of three long and eight short layers, by adding up what each query sees.
  double keys = 0;
  for (std::int64_t t = 0; t < 65536; ++t)
    for (const std::int64_t window : {14, 14, 14, 7, 7, 7, 7, 7, 7, 7, 7})
      keys += (static_cast<double>(std::min(t / 128 + 1, window) * 128 - (128 - t % 128)) + 0.5) / 65536;
  EXPECT_NEAR(static_cast<double>(n.flops_per_token),
              static_cast<double>(6 * (n.hidden + table)) + 12 * keys * 768, 1e3);
}

// Llama 2 7B: 6,738,415,616 parameters; Llama 3 8B with grouped heads: 8,030,261,248.
TEST(ModelCount, Llama) {
  TransformerConfig c = gpt2(32, 4096, 32);
  c.vocab = 32000;
  c.positions = Positions::rotary;
  c.norm = NormKind::rms;
  c.mlp = MlpKind::swiglu;
  c.mlp_width = 11008;
  c.linear_bias = false;
  c.tied = false;
  EXPECT_EQ(count(c, 1024).parameters, 6738415616);
  c.vocab = 128256;
  c.kv_heads = 8;
  c.mlp_width = 14336;
  EXPECT_EQ(count(c, 1024).parameters, 8030261248);
}

TEST(TransformerConfig, DerivedSizes) {
  const TransformerConfig c = TransformerConfig{}.resolved();
  EXPECT_EQ(c.padded_vocab, 50304);
  EXPECT_EQ(c.kv_heads, 12);
  EXPECT_EQ(c.head_dim, 64);
  EXPECT_EQ(c.mlp_width, 3072);
  EXPECT_DOUBLE_EQ(c.attention_scale, 0.125);
  EXPECT_EQ(c.resolved(), c);
}

std::string refusal(const std::function<void(TransformerConfig&)>& change) {
  TransformerConfig c;
  change(c);
  try {
    c.resolved();
  } catch (const RequestError& e) {
    return e.what();
  }
  return "accepted";
}

TEST(TransformerConfig, Refusals) {
  using C = TransformerConfig;
  EXPECT_THAT(refusal([](C& c) { c.width = 770; }), HasSubstr("width 770 is not divisible by heads 12"));
  EXPECT_THAT(refusal([](C& c) { c.kv_heads = 5; }), HasSubstr("kv_heads 5 does not divide heads 12"));
  EXPECT_THAT(refusal([](C& c) { c.kv_heads = 24; }), HasSubstr("kv_heads 24 does not divide heads 12"));
  EXPECT_THAT(refusal([](C& c) { c.layers = 0; }), HasSubstr("layers is 0"));
  EXPECT_THAT(refusal([](C& c) { c.heads = 0; }), HasSubstr("heads is 0"));
  EXPECT_THAT(refusal([](C& c) { c.context = -1; }), HasSubstr("context is -1"));
  EXPECT_THAT(refusal([](C& c) { c.vocab = std::int64_t{1} << 40; }), HasSubstr("vocab is 1099511627776"));
  EXPECT_THAT(refusal([](C& c) { c.head_dim = std::int64_t{1} << 30; }), HasSubstr("heads * head_dim"));
  EXPECT_THAT(refusal([](C& c) { c.padded_vocab = 50256; }),
              HasSubstr("padded_vocab 50256 is below vocab 50257"));
  EXPECT_THAT(refusal([](C& c) { c.norm_eps = 0; }), HasSubstr("norm_eps is 0"));
  EXPECT_THAT(refusal([](C& c) { c.attention_scale = -1; }), HasSubstr("attention_scale is -1"));
  EXPECT_THAT(refusal([](C& c) { c.init_std = NAN; }), HasSubstr("init_std is nan"));
  EXPECT_THAT(refusal([](C& c) { c.zero_init_head = true; }), HasSubstr("tied"));
  EXPECT_THAT(refusal([](C& c) {
                c.softcap = {Softcap::Kind::tanh, 0, 1, 0};
              }),
              HasSubstr("softcap.cap is 0"));
  EXPECT_THAT(refusal([](C& c) {
                c.softcap = {Softcap::Kind::sigmoid, 30, 0, 0};
              }),
              HasSubstr("softcap.divisor is 0"));
  EXPECT_THAT(refusal([](C& c) { c.visibility.window = {1, 2, 3}; }), HasSubstr("visibility.window lists 3"));
  EXPECT_THAT(refusal([](C& c) { c.visibility.window = {-1}; }), HasSubstr("visibility.window is -1"));
  EXPECT_THAT(refusal([](C& c) {
                c.visibility.window = {64};
                c.visibility.window_multiple = 64;
                c.visibility.window_block = 48;
              }),
              HasSubstr("window_block 48 does not divide"));
  EXPECT_THAT(refusal([](C& c) { c.visibility.short_layers = {12}; }), HasSubstr("layers are 0 to 11"));
  EXPECT_THAT(refusal([](C& c) { c.layers_without_attention = {-1}; }), HasSubstr("names layer -1"));
  EXPECT_THAT(refusal([](C& c) {
                c.visibility.documents = true;
                c.visibility.document_token = 50257;
              }),
              HasSubstr("document_token 50257 is not in the vocabulary"));
  EXPECT_THAT(refusal([](C& c) { c.value_tables = {0}; }), HasSubstr("value_mix is not table"));
  EXPECT_THAT(refusal([](C& c) { c.value_mix = ValueMix::table; }),
              HasSubstr("value_tables lists 0 numbers"));
  EXPECT_THAT(refusal([](C& c) {
                c.value_mix = ValueMix::table;
                c.value_tables.assign(12, -1);
              }),
              HasSubstr("every layer has a table"));
  EXPECT_THAT(refusal([](C& c) {
                c.value_mix = ValueMix::scaled_table;
                c.value_tables.assign(12, 12);
              }),
              HasSubstr("names table 12"));
  EXPECT_THAT(refusal([](C& c) { c.attention_gate = 769; }), HasSubstr("attention_gate is 769"));
  const auto rotary = [](const std::function<void(C&)>& change) {
    return refusal([&](C& c) {
      c.positions = Positions::rotary;
      change(c);
    });
  };
  EXPECT_THAT(rotary([](C& c) { c.head_dim = 63; }), HasSubstr("head_dim 63 is odd"));
  EXPECT_THAT(rotary([](C& c) { c.rotary_fraction = 0; }), HasSubstr("rotary_fraction is 0"));
  EXPECT_THAT(rotary([](C& c) { c.rotary_fraction = 1.5; }), HasSubstr("rotary_fraction is 1.5"));
  EXPECT_THAT(rotary([](C& c) { c.rotary_base = -3; }), HasSubstr("rotary_base is -3"));
  EXPECT_THAT(rotary([](C& c) { c.rotary_sign = 0; }), HasSubstr("rotary_sign is 0"));
  EXPECT_EQ(rotary([](C&) {}), "accepted");
}

std::map<std::string, ParameterInfo> declared(const TransformerConfig& c) {
  Tape tape;
  transformer(tape, c.resolved(), 2, 8);
  std::map<std::string, ParameterInfo> by_name;
  for (const ParameterInfo& p : tape.parameters()) by_name[p.name] = p;
  EXPECT_EQ(by_name.size(), tape.parameters().size());
  return by_name;
}

TEST(Parameters, Gpt2NamesRolesAndInitialisers) {
  const auto p = declared(gpt2(2, 64, 4));
  ASSERT_EQ(p.size(), 2u + 2 * 12 + 2);
  EXPECT_EQ(p.at("wte").role, Role::embedding);
  EXPECT_EQ(p.at("wte").shape, (Shape{50304, 64}));
  EXPECT_EQ(p.at("wte").logical_rows, 50257);
  EXPECT_EQ(p.at("wpe").shape, (Shape{1024, 64}));
  EXPECT_EQ(p.at("wpe").init.value, 0.01);
  EXPECT_EQ(p.at("h.1.attention.qkv.weight").role, Role::hidden);
  EXPECT_EQ(p.at("h.1.attention.qkv.weight").splits, (std::vector<std::int64_t>{64, 64, 64}));
  EXPECT_EQ(p.at("h.1.attention.qkv.weight").init.value, 0.02);
  EXPECT_EQ(p.at("h.1.attention.qkv.bias").role, Role::bias);
  EXPECT_DOUBLE_EQ(p.at("h.0.attention.out.weight").init.value, 0.01);  // 0.02 / sqrt(2 * 2)
  EXPECT_DOUBLE_EQ(p.at("h.0.mlp.down.weight").init.value, 0.01);
  EXPECT_EQ(p.at("h.0.mlp.down.weight").shape, (Shape{64, 256}));
  EXPECT_EQ(p.at("h.0.norm1.gain").role, Role::gain);
  EXPECT_EQ(p.at("h.0.norm1.gain").init.value, 1);
  EXPECT_EQ(p.at("norm.bias").role, Role::bias);
  EXPECT_FALSE(p.contains("head"));
}

TEST(Parameters, GroupedHeadsGatesAndFanIn) {
  TransformerConfig c = gpt2(2, 64, 4);
  c.kv_heads = 2;
  c.positions = Positions::rotary;
  c.mlp = MlpKind::swiglu;
  c.mlp_width = 100;
  c.norm = NormKind::rms;
  c.tied = false;
  c.head_bias = true;
  c.zero_init_head = true;
  c.zero_init_projections = true;
  c.init = WeightInit::fan_in_uniform;
  c.init_std = 1 / std::sqrt(3.0);
  const auto p = declared(c);
  EXPECT_EQ(p.at("h.0.attention.qkv.weight").shape, (Shape{128, 64}));
  EXPECT_EQ(p.at("h.0.attention.qkv.weight").splits, (std::vector<std::int64_t>{64, 32, 32}));
  EXPECT_EQ(p.at("h.0.mlp.up.weight").splits, (std::vector<std::int64_t>{100, 100}));
  // torch.nn.Linear's default is U(-1/sqrt(fan_in), 1/sqrt(fan_in)).
  EXPECT_EQ(p.at("h.0.mlp.up.weight").init.kind, Initializer::Kind::uniform);
  EXPECT_DOUBLE_EQ(p.at("h.0.mlp.up.weight").init.value, 0.125);
  EXPECT_EQ(p.at("h.0.mlp.down.weight").init.value, 0);
  EXPECT_EQ(p.at("head").role, Role::head);
  EXPECT_EQ(p.at("head").init.value, 0);
  EXPECT_EQ(p.at("head").logical_rows, 50257);
  EXPECT_EQ(p.at("head.bias").role, Role::bias);
  EXPECT_FALSE(p.contains("wpe"));
  EXPECT_FALSE(p.contains("norm.bias"));
}

// Sampling must find the same parameters, whatever the batch and the context.
TEST(Parameters, OfTheSpeedrunsRecords) {
  TransformerConfig c = gpt2(4, 64, 4);
  c.x0_lambdas = c.skips = true;
  c.value_mix = ValueMix::scaled_table;
  c.value_tables = {1, -1, 0, 1};
  c.layers_without_attention = {1};
  c.attention_gate = 12;
  c.smear_gate = 8;
  const auto p = declared(c);
  for (const auto& [name, start] : {std::pair{"h.0.lambda", 1.0},
                                    {"h.3.lambda0", 0.0},
                                    {"h.2.skip", 1.0},
                                    {"h.3.skip", 1.0},
                                    {"h.0.attention.value_scale", 0.5},
                                    {"h.2.attention.table_scale", 0.5},
                                    {"smear.factor", 0.0}}) {
    ASSERT_TRUE(p.contains(name)) << name;
    EXPECT_EQ(p.at(name).role, Role::scalar);
    EXPECT_EQ(p.at(name).shape, Shape{1});
    EXPECT_EQ(p.at(name).init.kind, Initializer::Kind::constant);
    EXPECT_EQ(p.at(name).init.value, start) << name;
  }
  EXPECT_FALSE(p.contains("h.1.skip"));
  EXPECT_FALSE(p.contains("h.1.attention.qkv.weight"));
  for (const char* table : {"value_embedding.0", "value_embedding.1"}) {
    ASSERT_TRUE(p.contains(table));
    EXPECT_EQ(p.at(table).role, Role::embedding);
    EXPECT_EQ(p.at(table).logical_rows, 50257);
  }
  EXPECT_EQ(p.at("h.0.attention.gate.weight").shape, (Shape{4, 12}));
  EXPECT_EQ(p.at("smear.gate.weight").shape, (Shape{1, 8}));
  c.embedding_init = EmbeddingInit::uniform;
  c.embedding_std = 0.5;
  EXPECT_EQ(declared(c).at("wte").init.kind, Initializer::Kind::uniform);
  EXPECT_DOUBLE_EQ(declared(c).at("wte").init.value, 0.5 * std::sqrt(3.0));
}

TEST(Parameters, LogitsShareThem) {
  for (const bool tied : {true, false}) {
    TransformerConfig c = gpt2(1, 64, 4);
    c.tied = tied;
    c.head_bias = !tied;
    c = c.resolved();
    Tape losses, logits;
    transformer(losses, c, 4, 16);
    const Value v = transformer_logits(logits, c, 1, 5);
    EXPECT_EQ(logits.shape(v), (Shape{5, c.padded_vocab}));
    ASSERT_EQ(losses.parameters().size(), logits.parameters().size());
    for (std::size_t i = 0; i < losses.parameters().size(); ++i) {
      EXPECT_EQ(losses.parameters()[i].name, logits.parameters()[i].name);
      EXPECT_EQ(losses.parameters()[i].shape, logits.parameters()[i].shape);
    }
  }
}

TEST(Parameters, UnresolvedConfigurationIsTheCallersMistake) {
  Tape tape;
  EXPECT_THROW(transformer(tape, TransformerConfig{}, 1, 8), std::logic_error);
  EXPECT_THROW(transformer(tape, TransformerConfig{}.resolved(), 1, 1025), std::logic_error);
}

TransformerConfig rotary(std::int64_t head_dim) {
  TransformerConfig c = gpt2(1, 4 * head_dim, 4);
  c.positions = Positions::rotary;
  return c;
}

// Su et al. 2021, equation 15: theta_i = 10000^(-2 (i - 1) / d).
TEST(Rotary, PublishedAngles) {
  const std::vector<double> f = rotary_frequencies(rotary(64).resolved());
  ASSERT_EQ(f.size(), 32u);
  for (std::size_t i = 0; i < 32; ++i)
    EXPECT_NEAR(f[i], std::pow(10000.0, -2.0 * static_cast<double>(i) / 64.0), 1e-15);
}

// modded-nanogpt track 3: (1/1024)^linspace(0, 1, 32) and 32 zeros on a head of 128.
TEST(Rotary, HalfTruncated) {
  TransformerConfig c = rotary(128);
  c.rotary_base = 1024;
  c.rotary_fraction = 0.5;
  c.rotary_to_end = true;
  const std::vector<double> f = rotary_frequencies(c.resolved());
  ASSERT_EQ(f.size(), 64u);
  for (std::size_t i = 0; i < 32; ++i)
    EXPECT_NEAR(f[i], std::pow(1.0 / 1024, static_cast<double>(i) / 31), 1e-15);
  EXPECT_EQ(f[31], 1.0 / 1024);
  for (std::size_t i = 32; i < 64; ++i) EXPECT_EQ(f[i], 0);
  const RotaryTable t = rotary_table(c.resolved(), 5);
  ASSERT_EQ(t.cos.size(), 5u * 64);
  for (std::size_t position = 0; position < 5; ++position) {
    EXPECT_EQ(t.cos[position * 64 + 63], 1);
    EXPECT_EQ(t.sin[position * 64 + 63], 0);
    EXPECT_DOUBLE_EQ(t.cos[position * 64 + 31], std::cos(static_cast<double>(position) / 1024));
    EXPECT_DOUBLE_EQ(t.sin[position * 64], std::sin(static_cast<double>(position)));
  }
}

TEST(Rotary, OnePairStillTurns) {
  TransformerConfig c = rotary(2);
  c.rotary_fraction = 0.1;
  c.rotary_to_end = true;
  EXPECT_EQ(rotary_frequencies(c.resolved()), std::vector<double>{1.0});
}

}  // namespace
}  // namespace spectrain::test
