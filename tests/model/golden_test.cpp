#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "tests/model/model_run.h"
#include "tests/reference/reference_backend.h"

// Losses and all gradients of tiny transformers against PyTorch in float64 (golden/make_golden.py, and
// golden/make_speedrun_golden.py for those of the speedrun).

namespace spectrain::test {
namespace {

constexpr std::int64_t kBatch = 2;

struct Fixture {
  std::vector<std::int32_t> tokens, targets;
  std::vector<double> losses;
  std::map<std::string, std::vector<double>> gradients;
};

Fixture read_fixture(const std::string& model) {
  const std::string path =
      std::string(SPECTRAIN_SOURCE_DIR) + "/tests/model/golden/" + model + ".safetensors";
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("no fixture " + path);
  std::uint64_t length = 0;
  in.read(reinterpret_cast<char*>(&length), 8);
  std::string header(length, ' ');
  in.read(header.data(), static_cast<std::streamsize>(length));
  const std::vector<char> data{std::istreambuf_iterator<char>(in), {}};
  const auto bytes_of = [&](const nlohmann::json& entry, void* to) {
    const std::size_t first = entry["data_offsets"][0], last = entry["data_offsets"][1];
    std::memcpy(to, data.data() + first, last - first);
  };
  Fixture f;
  const nlohmann::json tensors = nlohmann::json::parse(header);
  for (const auto& [name, entry] : tensors.items()) {
    std::size_t count = 1;
    for (const std::size_t dim : entry["shape"]) count *= dim;
    if (entry["dtype"] == "I32") {
      std::vector<std::int32_t>& to = name == "tokens" ? f.tokens : f.targets;
      to.resize(count);
      bytes_of(entry, to.data());
    } else {
      std::vector<double>& to =
          name == "losses" ? f.losses : f.gradients[name.substr(sizeof "gradient." - 1)];
      to.resize(count);
      bytes_of(entry, to.data());
    }
  }
  return f;
}

TransformerConfig gpt2() {
  TransformerConfig c;
  c.vocab = 61;
  c.padded_vocab = 64;
  c.context = 12;
  c.layers = 2;
  c.width = 32;
  c.heads = 4;
  return c;
}

TransformerConfig modern(Softcap cap) {
  TransformerConfig c = gpt2();
  c.positions = Positions::rotary;
  c.rotary_base = 1024;
  c.rotary_fraction = 0.5;
  c.rotary_to_end = true;
  c.rotary_sign = -1;
  c.qk_norm = true;
  c.attention_scale = 0.12;
  c.attention_residual_factor = 0.75;
  c.norm = NormKind::rms;
  c.norm_gain = false;
  c.norm_eps = 1e-6;
  c.embedding_norm = true;
  c.mlp = MlpKind::relu2;
  c.mlp_width = 64;
  c.linear_bias = false;
  c.tied = false;
  c.softcap = cap;
  return c;
}

TransformerConfig llama() {
  TransformerConfig c = gpt2();
  c.kv_heads = 2;
  c.positions = Positions::rotary;
  c.rotary_pairs = RotaryPairs::interleaved;
  c.norm = NormKind::rms;
  c.mlp = MlpKind::swiglu;
  c.mlp_width = 40;
  c.linear_bias = false;
  c.tied = false;
  return c;
}

// What all of the speedrun's models share.
TransformerConfig speedrun(std::int64_t layers, std::int64_t width, std::int64_t heads) {
  TransformerConfig c;
  c.vocab = 61;
  c.padded_vocab = 64;
  c.context = 40;
  c.layers = layers;
  c.width = width;
  c.heads = heads;
  c.qk_norm = true;
  c.positions = Positions::rotary;
  c.rotary_sign = -1;
  c.norm = NormKind::rms;
  c.norm_gain = false;
  c.norm_eps = 0x1p-23;
  c.embedding_norm = true;
  c.mlp = MlpKind::relu2;
  c.mlp_width = 48;
  c.linear_bias = false;
  c.tied = false;
  return c;
}

void use_truncated_rotary(TransformerConfig& c) {
  c.rotary_base = 1024;
  c.rotary_fraction = 0.5;
  c.rotary_to_end = true;
  c.attention_scale = 0.12;
}

TransformerConfig track3() {
  TransformerConfig c = speedrun(3, 32, 2);
  use_truncated_rotary(c);
  c.norm_gain = true;
  c.linear_bias = true;
  c.head_bias = true;
  c.softcap = {Softcap::Kind::rational, 15, 1, 0};
  return c;
}

TransformerConfig record5() {
  TransformerConfig c = speedrun(4, 24, 3);
  c.embedding_norm = false;
  c.tied = true;
  return c;
}

TransformerConfig record9() {
  TransformerConfig c = speedrun(4, 24, 3);
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

constexpr std::int64_t kDocument = 7;

TransformerConfig record20() {
  TransformerConfig c = speedrun(8, 16, 2);
  use_truncated_rotary(c);
  c.vocab = 64;
  c.mlp_width = 32;
  c.x0_lambdas = true;
  c.skips = true;
  c.value_mix = ValueMix::scaled_table;
  c.value_tables = {0, 1, 2, -1, -1, 0, 1, 2};
  c.layers_without_attention = {4};
  c.visibility.documents = true;
  c.visibility.document_token = kDocument;
  c.visibility.window = {0, 24};
  c.visibility.window_multiple = 4;
  c.visibility.window_rounds_up = true;
  c.visibility.window_block = 4;
  c.visibility.short_layers = {1, 2, 5, 6};
  c.softcap = {Softcap::Kind::sigmoid, 30, 7.5, 0};
  return c;
}

TransformerConfig gates() {
  TransformerConfig c = speedrun(2, 32, 4);
  c.kv_heads = 2;
  c.value_mix = ValueMix::table;
  c.value_tables = {0, 1};
  c.visibility.documents = true;
  c.visibility.document_token = kDocument;
  c.visibility.window = {9};
  c.attention_gate = 6;
  c.smear_gate = 6;
  return c;
}

constexpr double kProgress = 0.8;  // of the training: where record20's window is

struct Case {
  std::string name;
  TransformerConfig config;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

// Learned scalars become one vector: each alone is a sum over all positions and elements that may nearly
// cancel, and its rounding is to be measured, as that of a matrix's elements, by the largest of its kind.
void gather_scalars(std::map<std::string, std::vector<double>>& gradients) {
  std::vector<double> scalars;
  std::erase_if(gradients, [&](const auto& g) {
    if (g.second.size() != 1) return false;
    scalars.push_back(g.second[0]);
    return true;
  });
  if (!scalars.empty()) gradients["scalars"] = scalars;
}

class Golden : public testing::TestWithParam<Case> {
 protected:
  Gradients run(Backend& backend, ProgramOptions options) const {
    const TransformerConfig& c = GetParam().config;
    ModelRun model(backend, c, kBatch, c.context, options);
    model.set_golden_weights();
    model.set_batch(fixture_.tokens, fixture_.targets, kProgress);
    return model.gradients();
  }

  Gradients run_with_gathered_scalars(Backend& backend, ProgramOptions options) const {
    Gradients ours = run(backend, options);
    gather_scalars(ours.of);
    return ours;
  }

  // Every parameter has exactly one golden gradient; rows of padding have none and must stay zero.
  void for_each_gradient(const Gradients& ours,
                         const std::function<void(const std::string&, const std::vector<double>&,
                                                  const std::vector<double>&)>& check) {
    ASSERT_EQ(ours.of.size(), fixture_.gradients.size());
    for (const auto& [name, golden] : fixture_.gradients) {
      SCOPED_TRACE(name);
      ASSERT_TRUE(ours.of.contains(name));
      std::vector<double> logical = ours.of.at(name);
      ASSERT_GE(logical.size(), golden.size());
      for (std::size_t i = golden.size(); i < logical.size(); ++i)
        EXPECT_EQ(logical[i], 0) << "padding " << i;
      logical.resize(golden.size());
      check(name, logical, golden);
    }
  }

  Fixture fixture_ = read_fixture(GetParam().name);
};

TEST_P(Golden, ReferenceInFloat64) {
  const auto backend = make_reference_backend();
  const Gradients ours = run(*backend, {.compute = DType::f64});
  EXPECT_LE(relative_error(ours.losses, fixture_.losses), 1e-9);
  for_each_gradient(ours,
                    [](const std::string&, const std::vector<double>& g, const std::vector<double>& golden) {
                      EXPECT_LE(relative_error(g, golden), 1e-9);
                    });
}

// 4 eps sqrt(K), K = 128 the longest sum of a product here: 5.4e-6.
TEST_P(Golden, CpuInFloat32) {
  const double tolerance = 4 * 0x1p-23 * std::sqrt(128.0);
  gather_scalars(fixture_.gradients);
  for (const bool onednn : {true, false}) {
    SCOPED_TRACE(onednn ? "oneDNN" : "own products");
    const auto backend = make_cpu_backend({.use_onednn = onednn});
    const Gradients ours = run_with_gathered_scalars(*backend, {.compute = DType::f32});
    EXPECT_LE(relative_error(ours.losses, fixture_.losses), tolerance);
    for_each_gradient(
        ours, [&](const std::string&, const std::vector<double>& g, const std::vector<double>& golden) {
          EXPECT_LE(relative_error(g, golden), tolerance);
        });
  }
}

TEST_P(Golden, CpuInBfloat16) {
  gather_scalars(fixture_.gradients);
  for (const bool onednn : {true, false}) {
    SCOPED_TRACE(onednn ? "oneDNN" : "own products");
    const auto backend = make_cpu_backend({.use_onednn = onednn});
    const Gradients ours = run_with_gathered_scalars(*backend, {.compute = DType::bf16});
    double difference = 0;
    for (std::size_t i = 0; i < ours.losses.size(); ++i) difference += ours.losses[i] - fixture_.losses[i];
    EXPECT_LE(std::abs(difference) / static_cast<double>(ours.losses.size()), 1e-2);
    for_each_gradient(ours, [](const std::string&, const std::vector<double>& g,
                               const std::vector<double>& golden) { EXPECT_GE(cosine(g, golden), 0.999); });
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         testing::Values(Case{"gpt2", gpt2()},
                                         Case{"modern_tanh", modern({Softcap::Kind::tanh, 30, 1, 0})},
                                         Case{"modern_sigmoid", modern({Softcap::Kind::sigmoid, 23, 7.5, 5})},
                                         Case{"modern_rational", modern({Softcap::Kind::rational, 15, 1, 0})},
                                         Case{"llama", llama()}, Case{"track3", track3()},
                                         Case{"record5", record5()}, Case{"record9", record9()},
                                         Case{"record11", record11()}, Case{"record20", record20()},
                                         Case{"gates", gates()}),
                         [](const testing::TestParamInfo<Case>& test) { return test.param.name; });

}  // namespace
}  // namespace spectrain::test
