#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "tests/train/tiny_run.h"
#include "train/checkpoint.h"
#include "train/clock.h"

// Whole runs of a tiny model: what is promised about their losses, their directory and their metrics.

namespace spectrain {
namespace {

using testing::HasSubstr;

std::vector<MetricsLine> lines_of(const TinyRun& tiny, const std::string& run) {
  return read_metrics(tiny.directory(run) + "/metrics.jsonl").lines;
}

std::vector<double> train_losses(const TinyRun& tiny, const std::string& run) {
  std::vector<double> losses;
  for (const MetricsLine& l : lines_of(tiny, run))
    if (l.train_loss) losses.push_back(*l.train_loss);
  return losses;
}

std::vector<MetricsLine> validations(const TinyRun& tiny, const std::string& run) {
  std::vector<MetricsLine> lines;
  for (const MetricsLine& l : lines_of(tiny, run))
    if (l.val_loss) lines.push_back(l);
  return lines;
}

double field(const MetricsLine& line, std::string_view name) {
  for (const auto& [key, value] : line.more)
    if (key == name) return std::get<double>(value);
  ADD_FAILURE() << "no field " << name;
  return 0;
}

const std::vector<std::string> kLong = {"train.steps=120", "train.validate.every=0"};

class Losses : public testing::TestWithParam<const char*> {};

TEST_P(Losses, BeginAtTheLogarithmOfTheVocabularyAndFall) {
  const TinyRun tiny;
  for (const std::string& config : {tiny.config(), tiny.adamw_config()}) {
    SCOPED_TRACE(config);
    const std::string precision = std::string("compute.precision=") + GetParam();
    std::vector<std::string> overrides = {precision, "data.train=" + (tiny / "long/train_*.bin"),
                                          "data.validation=" + (tiny / "long/val_*.bin")};
    overrides.insert(overrides.end(), kLong.begin(), kLong.end());
    train(config, named("falls", overrides), Existing::force);
    // A head of zeros gives every token the same chance, in any precision.
    const std::vector<double> losses = train_losses(tiny, "falls");
    ASSERT_EQ(losses.size(), 120u);
    EXPECT_NEAR(losses.front(), std::log(257.0), 1e-6);
    const auto measured = validations(tiny, "falls");
    ASSERT_EQ(measured.size(), 2u);
    EXPECT_NEAR(*measured.front().val_loss, std::log(257.0), 1e-6);
    EXPECT_LT(*measured.back().val_loss, 0.4 * std::log(257.0)) << "it has learned words";
    double last = 0;
    for (std::size_t i = losses.size() - 10; i < losses.size(); ++i) last += losses[i] / 10;
    EXPECT_LT(last, 0.4 * std::log(257.0));
  }
}
INSTANTIATE_TEST_SUITE_P(Precisions, Losses, testing::Values("f32", "bf16"),
                         [](const auto& tested) { return std::string(tested.param); });

TEST(Training, TheEffectiveConfigurationReproducesTheRun) {
  const TinyRun tiny;
  train(tiny.config(), named("first", {"schedule.warmup=2", "train.clip=1", "run.seed=5"}));
  train(tiny.directory("first") + "/config.yaml", named("again"));
  const auto metrics = timeless_metrics(tiny.directory("first"));
  EXPECT_EQ(metrics.size(), 20u + 5u);
  EXPECT_EQ(metrics, timeless_metrics(tiny.directory("again")));
  expect_same_bytes(newest_saved(tiny.checkpoints("first")), newest_saved(tiny.checkpoints("again")));

  // The comparison sees what it should: another seed is another run.
  train(tiny.directory("first") + "/config.yaml", named("other", {"run.seed=6"}));
  EXPECT_NE(metrics, timeless_metrics(tiny.directory("other")));
  EXPECT_NE(newest_saved(tiny.checkpoints("first")).model, newest_saved(tiny.checkpoints("other")).model);
}

TEST(Training, StopsBeforeItsScheduleDoes) {
  const TinyRun tiny;
  train(tiny.config(), named("whole"));
  train(tiny.config(), named("part", {"train.stop=12"}));
  const std::vector<double> whole = train_losses(tiny, "whole"), part = train_losses(tiny, "part");
  ASSERT_EQ(part.size(), 12u);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin())) << "rates are those of the whole schedule";
  EXPECT_EQ(validations(tiny, "part").back().step, 12);
  // What was left out can be had later; a stop after the end is none.
  train(tiny.config(), named("part", {"train.stop=99"}), Existing::resume);
  EXPECT_EQ(train_losses(tiny, "part"), whole);
}

TEST(Training, ValidatesMoreOftenInTheTail) {
  const TinyRun tiny;
  train(tiny.config(), named("tail", {"train.validate.every=10", "train.validate.tail=0.25",
                                      "train.validate.tail_every=2"}));
  std::vector<std::int64_t> steps;
  for (const MetricsLine& l : validations(tiny, "tail")) steps.push_back(l.step);
  EXPECT_EQ(steps, (std::vector<std::int64_t>{0, 10, 16, 18, 20}));
}

TEST(Training, MicroBatchesChangeNothingButRounding) {
  const TinyRun tiny;
  std::vector<std::vector<double>> losses, measured;
  for (const char* micro : {"1", "2", "4"}) {
    const std::string run = std::string("micro-") + micro;
    // The sharp first steps: later ones multiply any difference.
    train(tiny.adamw_config(),
          named(run, {std::string("batch.micro_batch=") + micro, "train.steps=4", "train.validate.every=2",
                      "optimizer.0.eps=1e-3", "optimizer.1.eps=1e-3"}));
    losses.push_back(train_losses(tiny, run));
    measured.emplace_back();
    for (const MetricsLine& l : validations(tiny, run)) measured.back().push_back(*l.val_loss);
  }
  ASSERT_EQ(losses[0].size(), 4u);
  ASSERT_EQ(measured[0].size(), 3u);
  // 18 windows in batches of 4 leave a partial last one; it must weigh no more than its tokens.
  const double tolerance = 16 * 6e-8 * std::sqrt(64.0) * std::log(257.0);
  for (std::size_t run = 1; run < losses.size(); ++run) {
    for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(losses[run][i], losses[0][i], tolerance) << run << i;
    for (std::size_t i = 0; i < 3; ++i) EXPECT_NEAR(measured[run][i], measured[0][i], tolerance) << run << i;
  }
}

TEST(Training, AnExistingRunIsNeverOverwrittenByAccident) {
  const TinyRun tiny;
  const auto short_run = named("once", {"train.steps=3"});
  train(tiny.config(), short_run);
  const std::string before = contents_of(tiny.directory("once") + "/metrics.jsonl");
  const Finished refused = run_program(train_arguments(tiny.config(), short_run), tiny / "refused");
  EXPECT_EQ(refused.code, 2);
  EXPECT_THAT(refused.err, HasSubstr(tiny.directory("once")));
  EXPECT_THAT(refused.err, HasSubstr("--resume"));
  EXPECT_THAT(refused.err, HasSubstr("--force"));
  EXPECT_EQ(contents_of(tiny.directory("once") + "/metrics.jsonl"), before);

  const Finished forced =
      run_program(train_arguments(tiny.config(), short_run, Existing::force), tiny / "forced");
  EXPECT_EQ(forced.code, 0) << forced.err;
  EXPECT_EQ(contents_of(tiny.directory("once.old-1") + "/metrics.jsonl"), before) << "set aside, not deleted";
  EXPECT_EQ(timeless_metrics(tiny.directory("once")), timeless_metrics(tiny.directory("once.old-1")));

  // A finished run that is resumed has nothing to do, and one that is made longer goes on.
  const std::string finished = contents_of(tiny.directory("once") + "/metrics.jsonl");
  train(tiny.config(), short_run, Existing::resume);
  EXPECT_EQ(contents_of(tiny.directory("once") + "/metrics.jsonl"), finished);
  const std::string out = train(tiny.config(), named("once", {"train.steps=5"}), Existing::resume);
  EXPECT_THAT(out, HasSubstr("after step 3"));
  EXPECT_EQ(newest_saved(tiny.checkpoints("once")).step, 5);
  EXPECT_EQ(train_losses(tiny, "once").size(), 5u);
}

TEST(Training, AWrongRequestLeavesNothingBehind) {
  const TinyRun tiny;
  const auto wrong = [&](const std::string& override_, const std::string& named_in_message) {
    SCOPED_TRACE(override_);
    const Finished f =
        run_program(train_arguments(tiny.config(), named("wrong", {override_})), tiny / "wrong-output");
    EXPECT_EQ(f.code, 2);
    EXPECT_THAT(f.err, HasSubstr(named_in_message));
    EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;
    EXPECT_FALSE(std::filesystem::exists(tiny.directory("wrong"))) << "a run directory was made";
  };
  wrong("data.train=" + (tiny / "nothing/train_*.bin"), "nothing/train_*.bin");
  wrong("data.validation=" + (tiny / "nothing.bin"), "nothing.bin");
  wrong("data.train=" + (tiny / "tiny.yaml"), "tiny.yaml");
  wrong("optimizer.1.parameters=[embedding, head, bias, scalar]", "gain");
  wrong("compute.device=cuda", "cuda");
  wrong("optimizer.0.rule=adamq", "adamq");
}

TEST(Training, MetricsHoldWhatIsPromised) {
  const TinyRun tiny;
  train(tiny.config(), named("metrics", {"train.target=5.5"}));
  const MetricsFile file = read_metrics(tiny.directory("metrics") + "/metrics.jsonl");
  EXPECT_EQ(file.header.run, "metrics");
  EXPECT_EQ(file.header.optimizer, "muon 0.02");
  EXPECT_EQ(file.header.target, 5.5);
  EXPECT_EQ(file.header.config_hash.size(), 16u);
  EXPECT_GT(file.header.model_parameters, 2 * 257 * 32);

  std::vector<std::int64_t> measured_at, trained_at;
  for (const MetricsLine& l : file.lines) {
    EXPECT_EQ(l.tokens, l.step * 64);
    (l.val_loss ? measured_at : trained_at).push_back(l.step);
  }
  EXPECT_EQ(measured_at, (std::vector<std::int64_t>{0, 6, 12, 18, 20}));
  ASSERT_EQ(trained_at.size(), 20u);
  for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(trained_at[i], static_cast<std::int64_t>(i) + 1);

  // Full precision: what the last validation wrote is what the checkpoint keeps as a double.
  const auto newest = newest_checkpoint(tiny.checkpoints("metrics"));
  ASSERT_TRUE(newest);
  const nlohmann::json state = CheckpointReader(newest->path).state();
  EXPECT_EQ(state.at("validations").back().at(3).get<double>(), *file.lines.back().val_loss);
  EXPECT_EQ(state.at("validations").size(), 5u);
}

TEST(Training, TheClockStandsStillDuringValidation) {
  const TinyRun tiny;
  train(tiny.config(), named("clock", {"train.validate.every=1", "train.checkpoint.every=2"}));
  double clock = 0;
  int measured = 0;
  for (const MetricsLine& l : lines_of(tiny, "clock")) {
    if (l.val_loss) {
      EXPECT_EQ(l.train_seconds, clock) << "validation before step " << l.step;
      ++measured;
      continue;
    }
    // Nothing but the step itself passes between two training lines.
    EXPECT_NEAR(l.train_seconds - clock, 64 / field(l, "tokens_per_second"), 1e-9 + 1e-9 * clock);
    EXPECT_GT(l.train_seconds, clock);
    clock = l.train_seconds;
  }
  EXPECT_EQ(measured, 21);
}

}  // namespace
}  // namespace spectrain
