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
