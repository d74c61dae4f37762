#include <gtest/gtest.h>

#include "tests/train/config_files.h"
#include "train/config.h"

// configs/llama against what was published of each size.

namespace spectrain {
namespace {

struct Llama {
  const char* size;
  std::int64_t width, mlp_width, heads, layers;
  double body, total;  // million parameters; body: without embedding and head
  double rounding;     // of the two, half a unit of their last digit
};

std::ostream& operator<<(std::ostream& out, const Llama& l) { return out << l.size; }

// GaLore's configuration files (Zhao et al. 2024), counted by their own formula: layers of 4 w^2 + 3 w m + 2
// w and a last norm of w, 32,000 rows (100m: 32,100) in embedding and head.
constexpr Llama kGalore[] = {
    {"9m", 128, 352, 4, 4, .80, 9.00, .005},          {"20m", 256, 688, 4, 4, 3.16, 19.55, .005},
    {"35m", 384, 1024, 8, 6, 10.62, 35.20, .005},     {"40m", 416, 1024, 8, 8, 15.77, 42.39, .005},
    {"60m", 512, 1376, 8, 8, 25.31, 58.07, .005},     {"71m", 512, 1368, 8, 12, 37.81, 70.58, .005},
    {"100m", 640, 1708, 10, 12, 59.03, 100.12, .005}, {"130m", 768, 2048, 12, 12, 84.95, 134.11, .005},
    {"250m", 768, 2560, 16, 24, 198.2, 247.4, .05},   {"350m", 1024, 2736, 16, 24, 302.4, 368.0, .05},
    {"1b", 2048, 5461, 32, 24, 1208.0, 1339.1, .05},  {"3b", 2560, 6848, 32, 32, 2522.0, 2685.8, .05},
    {"7b", 4096, 11008, 32, 32, 6476.3, 6738.4, .05}};

RunConfig loaded(const std::string& name) {
  return load_config(configs_directory() + "llama/" + name + ".yaml", {});
}

class LlamaSizes : public testing::TestWithParam<Llama> {};

TEST_P(LlamaSizes, AreThePublishedOnes) {
  const Llama& published = GetParam();
  const RunConfig config = loaded(std::string(published.size) + "-adamw");
  const TransformerConfig m = config.model.resolved();
  EXPECT_EQ(m.width, published.width);
  EXPECT_EQ(m.mlp_width, published.mlp_width) << "the logical width, whatever memory is laid out for";
  EXPECT_EQ(m.heads, published.heads);
  EXPECT_EQ(m.kv_heads, published.heads);
  EXPECT_EQ(m.layers, published.layers);
  EXPECT_FALSE(m.tied);
  EXPECT_EQ(m.mlp, MlpKind::swiglu);
  EXPECT_TRUE(m.norm == NormKind::rms && m.norm_gain && !m.linear_bias);
  EXPECT_EQ(m.norm_eps, 1e-6);
  const ModelCount size = count(config.model, config.batch.context);
  const double rows = static_cast<double>(m.vocab * m.width);
  // The table's last digit is rounded, and its "body" leaves the last norm out where that shows.
  const double slack = published.rounding * (1 + 1e-9) + static_cast<double>(m.width) * 1e-6;
  EXPECT_NEAR(static_cast<double>(size.parameters) * 1e-6, published.total, slack);
  EXPECT_NEAR((static_cast<double>(size.parameters) - 2 * rows) * 1e-6, published.body, slack);
  EXPECT_EQ(config.schedule.warmup * 10, config.steps());
}

TEST_P(LlamaSizes, DifferInTheOptimizerAlone) {
  const std::string size = GetParam().size;
  const RunConfig adamw = loaded(size + "-adamw");
  RunConfig muon = loaded(size + "-muon");
  const auto* rule = muon.optimizer.groups[0].rule.get<MuonOptions>();
  ASSERT_NE(rule, nullptr);
  EXPECT_EQ(rule->shape_scale, ShapeScale::match_rms);
  EXPECT_EQ(rule->lr, adamw.optimizer.groups[0].rule.get<AdamWOptions>()->lr);
  EXPECT_EQ(muon.run.name, "llama-" + size + "-muon");
  muon.run = adamw.run;
  muon.optimizer = adamw.optimizer;
  EXPECT_EQ(muon, adamw);
}
INSTANTIATE_TEST_SUITE_P(Galore, LlamaSizes, testing::ValuesIn(kGalore),
                         [](const auto& test) { return std::string(test.param.size); });

// Of the published weights: the sum of their tensors' sizes.
TEST(Llama3, SizesToTheLastParameter) {
  for (const char* rule : {"adamw", "muon"}) {
    SCOPED_TRACE(rule);
    EXPECT_EQ(count(loaded(std::string("llama3-8b-") + rule).model, 8192).parameters, 8030261248);
    EXPECT_EQ(count(loaded(std::string("llama3-1b-") + rule).model, 8192).parameters, 1235814400);
  }
}

}  // namespace
}  // namespace spectrain
