#include "train/compare_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "kernels/error.h"
#include "tests/train/tiny_run.h"
#include "train/compare_state.h"

// When two runs are the same run, and when two configurations must not be compared.

namespace spectrain {
namespace {

using testing::Contains;
using testing::HasSubstr;

class CompareConfig : public testing::Test {
 protected:
  std::string path() const { return tiny_ / "plan.yaml"; }
  ComparePlan plan(const std::string& rest) {
    put_contents(path(), fmt::format("base: tiny-adamw.yaml\ndirectory: {}\n{}", tiny_ / "compare", rest));
    return read_compare_plan(path());
  }
  RunConfig config(const std::string& variant_lines, const GridPoint& point = {}, std::uint64_t seed = 1) {
    const ComparePlan p = plan("variants:\n  - name: v\n" + variant_lines);
    return configuration(p, p.variants.front(), point, seed);
  }
  TinyRun tiny_;
};

TEST_F(CompareConfig, GridValuesReachTheirKeys) {
  const std::string grid =
      "    grid: {lr: {factors: {optimizer.0.lr: 1, optimizer.1.lr: 3}, values: [0.1, 0.2]}}\n";
  const FlatConfig flat = flattened(config(grid, {{"lr", 0.1}}, 5));
  EXPECT_THAT(flat, Contains(testing::Pair("optimizer.0.lr", "0.1")));
  EXPECT_THAT(flat, Contains(testing::Pair("optimizer.1.lr", "0.3"))) << "not 0.30000000000000004";
  EXPECT_THAT(flat, Contains(testing::Pair("run.seed", "5")));
  // Off the grid as much as on it, for it may grow.
  EXPECT_THAT(flattened(config(grid, {{"lr", 0.4}})), Contains(testing::Pair("optimizer.0.lr", "0.4")));
}

TEST_F(CompareConfig, TheSameRunHasTheSameHash) {
  const RunConfig plain = config("");
  const std::string same[] = {
      "    set: {compute.threads: 2}\n",
      "    set: {train.checkpoint: {every: 5}}\n",
      "    set: {train.tensorboard: true, train.target: 3}\n",
      "    set: {optimizer.0.lr: 0.01}\n",                           // what the base says
      "    set: {optimizer.0.eps: 1e-8, data.order: sequential}\n",  // defaults
  };
  for (const std::string& lines : same) {
    SCOPED_TRACE(lines);
    EXPECT_EQ(identity_hash(config(lines)), identity_hash(plain));
    EXPECT_EQ(identity(config(lines)), identity(plain));
  }
  const std::string other[] = {
      "    set: {optimizer.0.lr: 0.02}\n", "    set: {optimizer.0.betas: [0.9, 0.99]}\n",
      "    set: {train.steps: 21}\n",      "    set: {train.clip: 1}\n",
      "    set: {model.width: 64}\n",
  };
  std::set<std::string> hashes{identity_hash(plain), identity_hash(config("", {}, 2))};
  for (const std::string& lines : other) hashes.insert(identity_hash(config(lines)));
  EXPECT_EQ(hashes.size(), 2 + std::size(other));
}

TEST_F(CompareConfig, DifferencesFromTheBase) {
  const ComparePlan p =
      plan("set: {train.steps: 30}\nvariants:\n  - {name: v, set: {optimizer.0.lr: 0.5}}\n");
  const std::vector<std::string> found =
      differences(base_configuration(p), configuration(p, p.variants.front(), {}, 9));
  EXPECT_THAT(found, testing::ElementsAre("optimizer.0.lr: 0.5 (base 0.01)"));
}

TEST_F(CompareConfig, RefusesToCompareWhatDiffers) {
  struct Case {
    std::string set, key, first, second;
  };
  const Case cases[] = {
      {"model.width: 64", "model.width", "32", "64"},
      {"model.qk_norm: false", "model.qk_norm", "true", "false"},
      {"train.steps: 40", "train.steps", "20", "40"},
      {"batch.tokens: 128", "batch.tokens", "64", "128"},
      {"batch.context: 8", "batch.context", "16", "8"},
      {"compute.precision: bf16", "compute.precision", "f32", "bf16"},
      {"data.order: shuffled", "data.order", "sequential", "shuffled"},
      {"train.validate.tokens: 160", "train.validate.tokens", "0", "160"},
      {"data.train: " + (tiny_ / "long/train_*.bin"), "data.train", "3 files of", "1 file of"},
      {"data.validation: " + (tiny_ / "long/val_*.bin"), "data.validation", "hash", "hash"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.set);
    const ComparePlan typed =
        plan("variants:\n  - name: first\n  - name: second\n    set:\n      " + c.set + "\n");
    const std::string message = message_of<RequestError>([&] { CompareState state(typed); });
    EXPECT_THAT(message, HasSubstr(path() + ":5: " + c.key + " is "));
    EXPECT_THAT(message, HasSubstr(c.first));
    EXPECT_THAT(message, HasSubstr(c.second));
    EXPECT_THAT(message, HasSubstr("in variant \"first\" and "));
    EXPECT_THAT(message, HasSubstr("in variant \"second\""));
  }
  // What belongs to the optimizer may differ, and so may the names of equal files.
  std::filesystem::copy(tiny_ / "short", tiny_ / "copy");
  const std::string allowed[] = {"optimizer.0.lr: 1",      "schedule: {shape: cosine, warmup: 9}",
                                 "train.clip: 1",          "batch.micro_batch: 4",
                                 "train.tokens: 1280",     "data.train: " + (tiny_ / "copy/train_*.bin"),
                                 "train.validate.every: 2"};
  for (const std::string& set : allowed) {
    SCOPED_TRACE(set);
    EXPECT_NO_THROW(
        CompareState(plan("variants:\n  - name: first\n  - name: second\n    set:\n      " + set + "\n")));
  }
  EXPECT_THAT(
      message_of<RequestError>(
          [&] { CompareState(plan("variants:\n  - name: v\n    set:\n      train.stop: 10\n")); }),
      HasSubstr("train.stop is 10 in variant \"v\"; runs are compared at the end of their schedules"));
  // On the grid too.
  EXPECT_THAT(message_of<RequestError>([&] {
                CompareState(plan(
                    "variants:\n  - name: v\n    grid: {w: {keys: model.mlp_width, values: [64, 128]}}\n"));
              }),
              HasSubstr("model.mlp_width is 64"));
}

TEST_F(CompareConfig, ErrorsOfAConfigurationNameThePlan) {
  const auto refusal = [&](const std::string& variant) {
    return message_of<RequestError>([&] { CompareState(plan("variants:\n  - name: v\n" + variant)); });
  };
  EXPECT_THAT(refusal("    set: {optimizer.0.lrr: 1}\n"),
              HasSubstr(path() + ":5: unknown key \"optimizer.0.lrr\""));
  EXPECT_THAT(refusal("    set: {optimizer.7.lr: 1}\n"), HasSubstr(path() + ":5: optimizer has 2 elements"));
  EXPECT_THAT(refusal("    set: {optimizer.0.lr: fast}\n"), HasSubstr(path() + ":5: optimizer.0.lr must be"));
  EXPECT_THAT(refusal("    grid: {lr: {keys: optimizer.0.weight, values: [1]}}\n"),
              HasSubstr(path() + ":5: unknown key"));
}

TEST_F(CompareConfig, VariantsThatCoincideAskForOneRun) {
  CompareState state(
      plan("variants:\n  - name: a\n    grid: {lr: {keys: optimizer.0.lr, values: [0.01, 0.02]}}\n"
           "  - name: b\n    set: {optimizer.0.lr: 0.02}\n"));
  const CompareState::View view = state.look();
  EXPECT_EQ(view.asked.size(), 3u);
  EXPECT_EQ(view.missing.size(), 2u);
  EXPECT_EQ(view.asked[1]->id, view.asked[2]->id);
  EXPECT_THAT(view.asked[1]->id, testing::MatchesRegex("a-lr0.02-s1-[0-9a-f]{8}"));
  EXPECT_FALSE(std::filesystem::exists(tiny_ / "compare")) << "looking writes nothing";
}

}  // namespace
}  // namespace spectrain
