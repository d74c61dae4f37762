#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/train/rank_job.h"
#include "tests/train/tiny_run.h"

// Whole runs with what the speedrun does otherwise: a sum of losses, and batches laid out as its loaders do.

namespace spectrain {
namespace {

std::vector<MetricsLine> training_lines(const TinyRun& tiny, const std::string& run) {
  std::vector<MetricsLine> lines;
  for (const MetricsLine& l : read_metrics(tiny.directory(run) + "/metrics.jsonl").lines)
    if (l.train_loss) lines.push_back(l);
  return lines;
}

double norm_of(const MetricsLine& line) {
  for (const auto& [key, value] : line.more)
    if (key == "gradient_norm") return std::get<double>(value);
  return std::nan("");
}

// A step of 64 tokens: the sum's gradient is 64 times the mean's to the last bit, and so is what AdamW makes
// of it where its eps is 64 times as large, and a clipped one where the norm is.
void expect_same_run(const TinyRun& tiny, const std::string& mean, const std::string& sum, double ratio) {
  const auto a = training_lines(tiny, mean), b = training_lines(tiny, sum);
  ASSERT_EQ(a.size(), b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(*a[i].train_loss, *b[i].train_loss) << "losses are means either way, step " << a[i].step;
    EXPECT_EQ(norm_of(b[i]), ratio * norm_of(a[i]));
  }
  EXPECT_TRUE(newest_saved(tiny.checkpoints(mean)).model == newest_saved(tiny.checkpoints(sum)).model);
}

TEST(LossSum, MakesGradientsAsManyTimesAsLargeAsThereAreTokens) {
  const TinyRun tiny;
  const auto eps = [](const char* value, std::vector<std::string> more) {
    for (const char* group : {"0", "1"}) more.push_back(std::string("optimizer.") + group + ".eps=" + value);
    return more;
  };
  for (const bool clips : {false, true}) {
    train(tiny.adamw_config(), named("mean", eps("1e-6", {clips ? "train.clip=0.125" : "train.clip=0"})),
          Existing::force);
    train(tiny.adamw_config(),
          named("sum", eps("64e-6", {"train.loss=sum", clips ? "train.clip=8" : "train.clip=0"})),
          Existing::force);
    expect_same_run(tiny, "mean", "sum", 64);
  }
  // Of two ranks, each with its micro-batches.
  const auto share = [&](const std::string& run, std::vector<std::string> more) {
    more.insert(more.end(), {"batch.tokens=64", "batch.micro_batch=1"});
    return named(run, std::move(more));
  };
  train_on_ranks(tiny, 2, tiny.adamw_config(), share("mean-2", eps("1e-6", {})));
  train_on_ranks(tiny, 2, tiny.adamw_config(), share("sum-2", eps("64e-6", {"train.loss=sum"})));
  expect_same_run(tiny, "mean-2", "sum-2", 64);
}

// Sophia divides a gradient by a curvature that it estimates from gradients of its own labels: of the sum
// both are 64 times as large.
TEST(LossSum, ReachesGradientsOfSampledLabels) {
  const TinyRun tiny;
  put_contents(
      tiny / "sophia.yaml",
      "base: tiny.yaml\n"
      "optimizer:\n"
      "  - {parameters: [hidden, embedding, head, gain, bias, scalar], rule: sophia, lr: 0.001, every: 3}\n");
  train(tiny / "sophia.yaml", named("mean"));
  train(tiny / "sophia.yaml", named("sum", {"train.loss=sum"}));
  const auto a = training_lines(tiny, "mean"), b = training_lines(tiny, "sum");
  ASSERT_EQ(a.size(), 20u);
  ASSERT_EQ(b.size(), 20u);
  // What is added to the curvature against a division by zero is not 64 times as large.
  for (std::size_t i = 0; i < 20; ++i) EXPECT_NEAR(*a[i].train_loss, *b[i].train_loss, 1e-5) << i;
  EXPECT_LT(*a.back().train_loss, *a.front().train_loss - 0.05) << "it learns";
}

// Of every layout: a run that is cut, or on two ranks, sees what one run in one piece on one rank sees.
TEST(DataLayouts, DependOnTheStepAlone) {
  const TinyRun tiny;
  std::set<std::string> ends;
  for (const std::string layout :
       {"stream", "shards", "skewed", "documents", "documents-20", "stream-replayed"}) {
    SCOPED_TRACE(layout);
    // A space is what "documents" of this text begin with.
    std::vector<std::string> more = {"data.layout=" + layout.substr(0, layout.find('-')),
                                     "data.layout_ranks=4",
                                     "data.document_token=32",
                                     "batch.micro_batch=1",
                                     "train.checkpoint.every=7",
                                     "train.checkpoint.keep=0"};
    if (layout == "documents-20") more.emplace_back("data.document_length=4");
    if (layout == "stream-replayed") more.emplace_back("data.replay_first_batch=true");
    train(tiny.adamw_config(), named(layout, more));
    const SavedBytes whole = newest_saved(tiny.checkpoints(layout));
    copy_run(tiny, layout, layout + "-cut", 7);
    train(tiny.adamw_config(), named(layout + "-cut", more), Existing::resume);
    expect_same_bytes(whole, newest_saved(tiny.checkpoints(layout + "-cut")));
    EXPECT_TRUE(ends.insert(whole.model).second) << "another layout gave the very same run";
    const auto one = training_lines(tiny, layout);
    train_on_ranks(tiny, 2, tiny.adamw_config(), named(layout + "-2", more));
    const auto two = training_lines(tiny, layout + "-2");
    ASSERT_EQ(one.size(), two.size());
    // The first loss is ln 257 whatever is read; later ones differ by rounding, which training multiplies.
    for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(*one[i].train_loss, *two[i].train_loss, 2e-5) << i;
  }
}

// Weights and moments that are bf16 between steps come back from a checkpoint as they were, and are cut over
// ranks as others are.
TEST(Bf16Storage, IsSavedAndSharedToTheLastBit) {
  const TinyRun tiny;
  put_contents(tiny / "bf16.yaml",
               "base: tiny.yaml\n"
               "optimizer:\n"
               "  - {parameters: hidden, rule: muon, lr: 0.02}\n"
               "  - {parameters: [embedding], rule: adamw, lr: 0.01, storage: bf16}\n"
               "  - {parameters: [head, gain, bias, scalar], rule: adam, lr: 0.01, storage: bf16}\n"
               "train: {checkpoint: {every: 8, keep: 0}}\n"
               "diagnostics: {every: 5}\n");
  train(tiny / "bf16.yaml", named("whole"));
  copy_run(tiny, "whole", "cut", 8);
  train(tiny / "bf16.yaml", named("cut"), Existing::resume);
  expect_same_bytes(newest_saved(tiny.checkpoints("whole")), newest_saved(tiny.checkpoints("cut")));
  EXPECT_NE(newest_saved(tiny.checkpoints("whole")).optimizer.find("\"dtype\":\"BF16\""), std::string::npos);

  train_on_ranks(tiny, 3, tiny / "bf16.yaml", twelve_sequences(tiny, "owners"));
  train_on_ranks(tiny, 3, tiny / "bf16.yaml",
                 twelve_sequences(tiny, "replicas", {"distributed.sharding=none"}));
  expect_same_bytes(newest_saved(tiny.checkpoints("owners")), newest_saved(tiny.checkpoints("replicas")));
  const auto losses = training_lines(tiny, "whole");
  EXPECT_LT(*losses.back().train_loss, *losses.front().train_loss - 0.05) << "it learns";

  const Finished f = run_program(train_arguments(tiny.config(), named("wrong", {"optimizer.0.storage=bf16"})),
                                 tiny / "wrong");
  EXPECT_EQ(f.code, 2);
  EXPECT_THAT(f.err, testing::HasSubstr("muon: storage bf16 is for element-wise rules"));
  EXPECT_FALSE(std::filesystem::exists(tiny.directory("wrong")));
}

}  // namespace
}  // namespace spectrain
