#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "kernels/error.h"
#include "tests/train/tiny_run.h"
#include "train/checkpoint.h"

// A run that was cut anywhere and resumed is the run that was not: weights and optimizer state byte for byte,
// losses digit for digit.

namespace spectrain {
namespace {

using testing::HasSubstr;

struct Variant {
  const char* name;
  bool adamw;
  std::vector<std::string> overrides;
};

class Resume : public testing::TestWithParam<Variant> {
 protected:
  TinyRun tiny;
  std::string config() const { return GetParam().adamw ? tiny.adamw_config() : tiny.config(); }
  std::vector<std::string> run(const std::string& name, std::vector<std::string> more = {}) const {
    more.insert(more.end(), GetParam().overrides.begin(), GetParam().overrides.end());
    return named(name, more);
  }
};

TEST_P(Resume, AtAnyStepEqualsTheUncutRun) {
  train(config(), run("plain"));
  train(config(), run("whole", {"train.checkpoint.every=1", "train.checkpoint.keep=0"}));
  const SavedBytes end = newest_saved(tiny.checkpoints("whole"));
  const auto metrics = timeless_metrics(tiny.directory("whole"));
  EXPECT_EQ(end.step, 20);
  expect_same_bytes(newest_saved(tiny.checkpoints("plain")), end);  // saving changes nothing
  EXPECT_EQ(timeless_metrics(tiny.directory("plain")), metrics);

  // 3: a shard ended within the step before; 4: warm-up ends; 5: shard ends; 6: validation; 7: epoch ends;
  // 9: momentum warm-up ends; 12: validation and cool-down.
  for (const std::int64_t k : {3, 4, 5, 6, 7, 9, 12}) {
    SCOPED_TRACE("resumed after step " + std::to_string(k));
    const std::string name = "cut-" + std::to_string(k);
    copy_run(tiny, "whole", name, k);
    const std::string out = train(config(), run(name), Existing::resume);
    EXPECT_THAT(out, HasSubstr("after step " + std::to_string(k)));
    expect_same_bytes(newest_saved(tiny.checkpoints(name)), end);
    EXPECT_EQ(timeless_metrics(tiny.directory(name)), metrics);
    std::filesystem::remove_all(tiny.directory(name));
    if (HasFailure()) break;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Variants, Resume,
    testing::Values(
        Variant{"muon_f32", false, {}}, Variant{"adamw_f32", true, {}},
        Variant{"muon_bf16", false, {"compute.precision=bf16", "compute.threads=2"}},
        Variant{"muon_bf16_stochastic", false, {"compute.precision=bf16", "compute.rounding=stochastic"}},
        Variant{"adamw_bf16", true, {"compute.precision=bf16", "train.clip=0.5"}},
        Variant{"muon_shuffled",
                false,
                {"data.order=shuffled", "optimizer.0.newton_schulz.precision=bf16", "train.log_every=3",
                 "compute.recompute=true"}}),
    [](const auto& tested) { return std::string(tested.param.name); });

// Every process does four steps of the same schedule; the checkpoint of the one before is all it has.
TEST(ResumeAgain, FiveProcessesEqualOne) {
  const TinyRun tiny;
  const std::vector<std::string> shuffled = {"data.order=shuffled", "compute.precision=bf16",
                                             "train.checkpoint.every=1", "train.checkpoint.keep=0"};
  train(tiny.config(), named("whole", shuffled));
  copy_run(tiny, "whole", "cut-4", 4);
  for (std::int64_t step = 8; step <= 20; step += 4) {
    const std::string before = "cut-" + std::to_string(step - 4);
    train(tiny.config(), named(before, shuffled), Existing::resume);
    copy_run(tiny, before, "cut-" + std::to_string(step), step);
  }
  expect_same_bytes(newest_saved(tiny.checkpoints("cut-20")), newest_saved(tiny.checkpoints("whole")));
  EXPECT_EQ(timeless_metrics(tiny.directory("cut-20")), timeless_metrics(tiny.directory("whole")));
}

// The steps trained so far according to metrics.jsonl, which may be written at this moment.
std::int64_t steps_trained(const std::string& run_directory) {
  const std::string text = contents_of(run_directory + "/metrics.jsonl");
  std::int64_t count = 0;
  for (std::size_t at = 0; (at = text.find("train_loss", at)) != std::string::npos; ++at) ++count;
  return count;
}

TEST(ResumeInterrupted, AnInterruptFinishesTheStepSavesAndGoesOn) {
  const TinyRun tiny;
  const std::vector<std::string> overrides = {
      "train.steps=3000",     "train.validate.every=50", "data.train=" + (tiny / "long/train_*.bin"),
      "model.context=64",     "batch.context=64",        "batch.tokens=256",
      "schedule.cooldown=0.1"};
  const auto cut = train_arguments(tiny.config(), named("cut", overrides));
  auto resume = cut;
  resume.emplace_back("--resume");
  std::int64_t last = 0;
  for (const int signal : {SIGINT, SIGTERM}) {
    const pid_t pid = start_program(last == 0 ? cut : resume, tiny / "interrupted");
    const auto begun = std::chrono::steady_clock::now();
    while (steps_trained(tiny.directory("cut")) < last + 20 &&
           std::chrono::steady_clock::now() - begun < std::chrono::seconds(60))
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    kill(pid, signal);
    const Finished f = wait_for(pid, tiny / "interrupted");
    ASSERT_EQ(f.code, 0) << f.err;
    const SavedBytes saved = newest_saved(tiny.checkpoints("cut"));
    ASSERT_GT(saved.step, last);
    ASSERT_LT(saved.step, 90000) << "it was done before the signal came";
    EXPECT_THAT(f.out, HasSubstr("interrupted after step " + std::to_string(saved.step)));
    EXPECT_THAT(f.out, HasSubstr("--resume"));
    // Nothing was trained that was not saved.
    EXPECT_EQ(read_metrics(tiny.directory("cut") + "/metrics.jsonl").lines.back().step, saved.step);
    last = saved.step;
  }
  // To an end a little later (the schedule is flat until then), against a run that nobody interrupted.
  const std::string steps = "train.steps=" + std::to_string(last + 30);
  for (const char* run : {"cut", "whole"}) {
    auto to_the_end = overrides;
    to_the_end.insert(to_the_end.end(), {steps, "schedule.shape=constant"});
    const bool first = std::string(run) == "whole";
    train(tiny.config(), named(run, to_the_end), first ? Existing::refuse : Existing::resume);
  }
  expect_same_bytes(newest_saved(tiny.checkpoints("cut")), newest_saved(tiny.checkpoints("whole")));
  const auto metrics = timeless_metrics(tiny.directory("whole"));
  EXPECT_EQ(timeless_metrics(tiny.directory("cut")), metrics);
}

TEST(ResumeInterrupted, BetweenAValidationAndTheNextCheckpointNothingIsMeasuredTwice) {
  const TinyRun tiny;
  const std::vector<std::string> saving = {"train.checkpoint.every=6", "train.checkpoint.keep=0"};
  train(tiny.config(), named("whole", saving));
  const auto metrics = timeless_metrics(tiny.directory("whole"));
  // Killed some steps after the validation that follows the checkpoint of step 12.
  copy_run(tiny, "whole", "killed", 12);
  train(tiny.config(), named("killed", saving), Existing::resume);
  EXPECT_EQ(timeless_metrics(tiny.directory("killed")), metrics);
  // Killed before there was any checkpoint: it begins again, and so do its metrics.
  copy_run(tiny, "whole", "nothing", 0);
  train(tiny.config(), named("nothing", saving), Existing::resume);
  EXPECT_EQ(timeless_metrics(tiny.directory("nothing")), metrics);
  expect_same_bytes(newest_saved(tiny.checkpoints("nothing")), newest_saved(tiny.checkpoints("whole")));
}

TEST(ResumeCheckpoints, OnlyTheNewestAreKept) {
  const TinyRun tiny;
  const auto steps_of = [&](const std::string& run) {
    std::vector<std::int64_t> steps;
    for (const FoundCheckpoint& c : list_checkpoints(tiny.checkpoints(run))) steps.push_back(c.step);
    return steps;
  };
  train(tiny.config(), named("three", {"train.checkpoint.every=3", "train.checkpoint.keep=3"}));
  EXPECT_EQ(steps_of("three"), (std::vector<std::int64_t>{15, 18, 20}));
  train(tiny.config(), named("one", {"train.checkpoint.every=5", "train.checkpoint.keep=1"}));
  EXPECT_EQ(steps_of("one"), (std::vector<std::int64_t>{20}));
  train(tiny.config(), named("all", {"train.checkpoint.every=5", "train.checkpoint.keep=0"}));
  EXPECT_EQ(steps_of("all"), (std::vector<std::int64_t>{5, 10, 15, 20}));
  train(tiny.config(), named("end"));
  EXPECT_EQ(steps_of("end"), (std::vector<std::int64_t>{20}));
}

TEST(ResumeCheckpoints, ADamagedOneIsPassedOverWithASentence) {
  const TinyRun tiny;
  train(tiny.config(), named("whole", {"train.checkpoint.every=5", "train.checkpoint.keep=0"}));
  const SavedBytes end = newest_saved(tiny.checkpoints("whole"));
  const auto metrics = timeless_metrics(tiny.directory("whole"));
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}) {
    SCOPED_TRACE(file);
    std::filesystem::remove_all(tiny.directory("hurt"));
    copy_run(tiny, "whole", "hurt", 15);
    const std::string path = list_checkpoints(tiny.checkpoints("hurt")).back().path;
    std::string bytes = contents_of(path + "/" + file);
    bytes[bytes.size() - 2] ^= 1;  // one bit, the size stays
    put_contents(path + "/" + file, bytes);
    const std::string out = train(tiny.config(), named("hurt"), Existing::resume);
    EXPECT_THAT(out, HasSubstr(path)) << "nothing was said of the damaged one";
    EXPECT_THAT(out, HasSubstr("after step 10"));
    expect_same_bytes(newest_saved(tiny.checkpoints("hurt")), end);
    EXPECT_EQ(timeless_metrics(tiny.directory("hurt")), metrics);
  }
}

TEST(ResumeCheckpoints, OfAnotherModelAreRefused) {
  const TinyRun tiny;
  train(tiny.config(), named("small", {"train.steps=2"}));
  const SavedBytes before = newest_saved(tiny.checkpoints("small"));
  const std::string configuration = contents_of(tiny.directory("small") + "/config.yaml");
  auto arguments = train_arguments(tiny.config(), named("small", {"model.width=64"}), Existing::resume);
  const Finished f = run_program(arguments, tiny / "other");
  EXPECT_EQ(f.code, 2);
  EXPECT_THAT(f.err, HasSubstr("wte"));
  expect_same_bytes(newest_saved(tiny.checkpoints("small")), before);
  EXPECT_EQ(contents_of(tiny.directory("small") + "/config.yaml"), configuration)
      << "it no longer fits the run";
}

}  // namespace
}  // namespace spectrain
