#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "model/transformer.h"
#include "train/command_plan_ranks.h"

namespace spectrain {
namespace {

RunConfig gpt2_124m() {
  return load_config(std::string(SPECTRAIN_SOURCE_DIR) + "/configs/gpt2-124m-muon.yaml", {},
                     ConfigUse::model);
}

TEST(PlanRanks, OfGpt2On8RanksIsBalanced) {
  const auto plan = nlohmann::json::parse(ranks_json(gpt2_124m(), 8));
  EXPECT_EQ(plan.at("ranks"), 8);
  EXPECT_LE(plan.at("imbalance").get<double>(), 1.05);
  std::int64_t matrices = 0, numbers = 0;
  for (const auto& rank : plan.at("by_rank")) {
    matrices += rank.at("matrices").get<std::int64_t>();
    numbers += rank.at("matrix_numbers").get<std::int64_t>() + rank.at("other_numbers").get<std::int64_t>();
  }
  EXPECT_EQ(matrices, 72);
  EXPECT_EQ(numbers, 124439808) << "GPT-2's parameters, each with one owner";
}

// Two ranks send each other half of everything: 124.4M gradients in f32, 84.9M matrix weights in bf16, 39.5M
// others in f32, and three doubles.
TEST(PlanRanks, BytesOfTwoRanksByHand) {
  const auto plan = nlohmann::json::parse(ranks_json(gpt2_124m(), 2));
  const double expected = (124439808 * 4.0 + 84934656 * 2.0 + (124439808 - 84934656) * 4.0) / 2 + 24;
  EXPECT_NEAR(plan.at("bytes_sent_per_step").get<double>(), expected, 1e-4 * expected);
  const auto replicas = [] {
    RunConfig config = gpt2_124m();
    config.distributed.sharding = Sharding::replicas;
    return nlohmann::json::parse(ranks_json(config, 2));
  }();
  EXPECT_NEAR(replicas.at("bytes_sent_per_step").get<double>(), 124439808 * 4.0 + 24, 100);
}

TEST(PlanRanks, PredictionFollowsItsAssumptions) {
  const RunConfig config = gpt2_124m();
  Fabric fabric;
  const StepTime one = predict_step(config, fabric, 1), two = predict_step(config, fabric, 2);
  const double flops =
      static_cast<double>(count(config.model.resolved(), config.batch.context).flops_per_token) *
      static_cast<double>(config.batch.tokens);
  EXPECT_DOUBLE_EQ(one.compute, flops / 400e12);
  EXPECT_DOUBLE_EQ(two.compute, one.compute / 2);
  EXPECT_EQ(one.gradients + one.weights + one.exposed, 0);
  EXPECT_NEAR(two.gradients, 124439808 * 4.0 / 2 / 300e9, 3e-4);
  EXPECT_LT(two.exposed, two.gradients + two.weights) << "most of it is hidden";
  // A link of almost nothing hides nothing.
  fabric.node_link = 1e-3;
  const StepTime slow = predict_step(config, fabric, 2);
  EXPECT_NEAR(slow.exposed, slow.gradients + slow.weights - slow.compute, 1e-6 * slow.exposed);
  EXPECT_GT(predict_step(config, fabric, 16).gradients, 0);
}

TEST(PlanRanks, ReportNamesTheAssumptions) {
  const std::string text = ranks_report(gpt2_124m(), 8, {});
  for (const char* part :
       {"rank    7:", "work max/mean 1.0", "a rank sends", "400 TFLOP/s", "45 GB/s between hosts"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " is missing in\n" << text;
}

}  // namespace
}  // namespace spectrain
