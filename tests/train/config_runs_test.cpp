#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "data/shard.h"
#include "kernels/random.h"
#include "tests/train/config_files.h"
#include "tests/train/tiny_run.h"
#include "train/command_plan_tables.h"
#include "train/session.h"

// Every file of configs/ that can be trained: it loads, plans at its own size, and trains three steps at a
// size of milliseconds, with everything but its sizes as it is: architecture, rules, schedule, layout of
// data.

namespace spectrain {
namespace {

constexpr std::int64_t kVocab = 257, kDocumentToken = 256, kContext = 64, kSequences = 8;

// Documents of 20 to 83 bytes, each begun by its token.
void write_shard(const std::string& path, std::int64_t tokens, std::uint64_t seed) {
  std::vector<std::int32_t> out;
  for (std::uint64_t i = 0; static_cast<std::int64_t>(out.size()) < tokens; ++i) {
    const std::uint32_t length = 20 + random_u32({seed, 1}, i) % 64;
    out.push_back(static_cast<std::int32_t>(kDocumentToken));
    for (std::uint32_t k = 0; k < length; ++k)
      out.push_back(static_cast<std::int32_t>(97 + random_u32({seed, 2}, 100 * i + k) % 26));
  }
  out.resize(static_cast<std::size_t>(tokens));
  ShardWriter shard(path, token_width(kVocab));
  shard.write(out);
  shard.finish();
}

std::string listed_numbers(const std::vector<std::int64_t>& numbers) {
  std::string text;
  for (const std::int64_t n : numbers) text += fmt::format("{}{}", text.empty() ? "" : ",", n);
  return '[' + text + ']';
}

// Sizes of attention windows are to the context what they were to sequences 32 times as long.
std::vector<std::string> small_windows(const VisibilityConfig& v) {
  constexpr std::int64_t kShorter = 32;
  std::vector<std::int64_t> window = v.window;
  for (std::int64_t& w : window) w /= kShorter;
  const auto shorter = [](std::int64_t n) { return std::max<std::int64_t>(1, n / kShorter); };
  std::vector<std::string> sets{
      fmt::format("model.visibility.window_multiple={}", shorter(v.window_multiple)),
      fmt::format("model.visibility.window_block={}", shorter(v.window_block)),
      fmt::format("model.visibility.document_token={}", kDocumentToken)};
  if (!window.empty()) sets.push_back("model.visibility.window=" + listed_numbers(window));
  return sets;
}

// Layers stay as many as they are where lists speak of single ones. Odd widths of an MLP stay as odd.
std::vector<std::string> small_model(const TransformerConfig& m) {
  const bool lists =
      !m.value_tables.empty() || !m.layers_without_attention.empty() || !m.visibility.short_layers.empty();
  std::vector<std::string> sets = small_windows(m.visibility);
  if (!lists) sets.push_back(fmt::format("model.layers={}", std::min<std::int64_t>(m.layers, 4)));
  if (m.mlp_width > 0) sets.push_back(fmt::format("model.mlp_width={}", 80 + m.mlp_width % 8));
  if (m.kv_heads > 0) sets.push_back(fmt::format("model.kv_heads={}", m.kv_heads == m.heads ? 2 : 1));
  for (const auto& [key, value] : {std::pair{"vocab", kVocab},
                                   {"padded_vocab", std::int64_t{0}},
                                   {"context", kContext},
                                   {"width", std::int64_t{32}},
                                   {"heads", std::int64_t{2}},
                                   {"head_dim", std::int64_t{0}}})
    sets.push_back(fmt::format("model.{}={}", key, value));
  return sets;
}

class ConfigRuns : public testing::TestWithParam<std::string> {
 protected:
  static void SetUpTestSuite() {
    scratch_ = std::make_unique<ScratchDirectory>();
    write_shard(*scratch_ / "train.bin", 16 * kSequences * kContext, 1);
    write_shard(*scratch_ / "val.bin", 2 * kContext + 1, 2);
  }
  static void TearDownTestSuite() { scratch_.reset(); }

  static std::vector<std::string> small(const RunConfig& config) {
    std::vector<std::string> sets = small_model(config.model);
    for (const std::string& set : std::vector<std::string>{
             "run.name=small", "run.directory=" + (*scratch_ / "runs"),
             "data.train=" + (*scratch_ / "train.bin"), "data.validation=" + (*scratch_ / "val.bin"),
             fmt::format("data.document_token={}", kDocumentToken),
             fmt::format("batch.tokens={}", kSequences * kContext), fmt::format("batch.context={}", kContext),
             "batch.micro_batch=4", "compute.device=cpu", "compute.threads=1", "train.steps=3",
             "train.log_every=1", "train.validate.every=0", "train.validate.tokens=0"})
      sets.push_back(set);
    if (config.train.validate.context > 0)
      sets.push_back(fmt::format("train.validate.context={}", kContext / 2));
    return sets;
  }

  static std::unique_ptr<ScratchDirectory> scratch_;
};
std::unique_ptr<ScratchDirectory> ConfigRuns::scratch_;

TEST_P(ConfigRuns, LoadPlanAndTrain) {
  const std::string path = configs_directory() + GetParam();
  const RunConfig config = with_resolved_model(load_config(path, {}));

  const auto backend = make_backend({.device = Device::cpu, .threads = 1});
  const ModelCount size = count(config.model, config.batch.context);
  EXPECT_GT(size.flops_per_token, 6 * size.hidden);
  EXPECT_GT(memory_table(config, *backend).total(), static_cast<std::size_t>(12 * size.parameters))
      << "weights, gradients and a moment in f32";
  EXPECT_EQ(plan_report(config, *backend).find("it needs:"), std::string::npos) << "nothing lacks";

  train(path, small(config), Existing::force);
  const std::vector<MetricsLine> lines = read_metrics(*scratch_ / "runs/small/metrics.jsonl").lines;
  std::vector<double> losses, validations;
  for (const MetricsLine& line : lines) {
    if (line.train_loss) losses.push_back(*line.train_loss);
    if (line.val_loss) validations.push_back(*line.val_loss);
  }
  ASSERT_EQ(losses.size(), 3u);
  ASSERT_EQ(validations.size(), 2u);
  for (const double loss : losses) EXPECT_TRUE(std::isfinite(loss));
  EXPECT_NE(validations[0], validations[1]) << "it has moved";
  // A head of zeros holds every token for equally likely, capped or not.
  if (config.model.zero_init_head) {
    EXPECT_NEAR(losses[0], std::log(kVocab), 1e-6);
  }
}

std::string test_name(const testing::TestParamInfo<std::string>& test) {
  std::string name = test.param;
  for (char& c : name)
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  return name;
}
INSTANTIATE_TEST_SUITE_P(Configs, ConfigRuns, testing::ValuesIn(config_files(ConfigKind::run)), test_name);

}  // namespace
}  // namespace spectrain
