#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/error.h"
#include "tests/train/rank_job.h"
#include "tests/train/tiny_run.h"
#include "train/session.h"
#include "train/speedrun_log.h"
#include "train/trainer.h"

// Timed runs: the records' clock leaves a run as it is, and its log says what happened.

namespace spectrain {
namespace {

using testing::HasSubstr;
using testing::Not;

std::string train_timed(const std::string& config, const std::vector<std::string>& overrides) {
  testing::internal::CaptureStdout();
  const auto collectives = make_single_collectives();
  TrainRequest request{config, overrides};
  request.speedrun = true;
  const auto backend = make_backend(load_config(config, overrides).compute);
  Trainer(request, *collectives, Launch{}, *backend).run();
  return testing::internal::GetCapturedStdout();
}

// Rules that keep something, and what stands around them: all of it must be as before the warm-up.
constexpr const char* kManyRules = R"(
base: tiny.yaml
model: {zero_init_projections: false}
optimizer:
  - {parameters: hidden, rule: soap, lr: 0.003}
  - {parameters: [embedding], rule: sophia, lr: 0.001, look_ahead: {strength: 0.2, decay: 0.5}}
  - {parameters: [head], rule: ademamix, lr: 0.003}
  - {parameters: [gain, bias, scalar], rule: adamw, lr: 0.01}
train: {average: {from: 12, decay: 0.8}}
)";
constexpr const char* kHyperball = R"(
base: tiny.yaml
model: {zero_init_projections: false}
optimizer:
  - {parameters: hidden, rule: normuon, lr: 0.02, constraint: hyperball, momentum_cooldown: {end: 0.8, steps: 5}}
  - {parameters: [embedding, head, gain, bias, scalar], rule: adafactor, lr: 0.003}
)";

TEST(Speedrun, IsTheRunThatItIsWithoutTheClock) {
  const TinyRun tiny;
  put_contents(tiny / "many.yaml", kManyRules);
  put_contents(tiny / "hyperball.yaml", kHyperball);
  for (const std::string& config :
       {tiny.config(), tiny.adamw_config(), tiny / "many.yaml", tiny / "hyperball.yaml"}) {
    SCOPED_TRACE(config);
    train(config, named("plain"), Existing::force);
    const auto plain = newest_saved(tiny.checkpoints("plain"));
    const auto losses = timeless_metrics(tiny.directory("plain"));
    std::filesystem::remove_all(tiny.directory("timed"));
    train_timed(config, named("timed"));
    expect_same_bytes(plain, newest_saved(tiny.checkpoints("timed")));
    EXPECT_EQ(losses, timeless_metrics(tiny.directory("timed")));
  }
}

TEST(Speedrun, IsTheRunThatItIsOnTwoRanks) {
  const TinyRun tiny;
  train_on_ranks(tiny, 2, tiny.config(), twelve_sequences(tiny, "plain"));
  auto arguments = train_arguments(tiny.config(), twelve_sequences(tiny, "timed"));
  arguments.emplace_back("--speedrun");
  RankJob job(tiny, 2);
  job.start_all(arguments);
  for (const EndedRank& e : job.wait(60)) EXPECT_EQ(e.code, 0) << e.err;
  expect_same_bytes(newest_saved(tiny.checkpoints("plain")), newest_saved(tiny.checkpoints("timed")));
  EXPECT_THAT(contents_of(tiny.directory("timed") + "/speedrun.log"), HasSubstr("\nranks: 2\n"));
}

TEST(Speedrun, LogNamesTheRunItsTimesAndTheCrossing) {
  const TinyRun tiny;
  const std::string printed = train_timed(tiny.config(), named("log", {"train.target=5.3"}));
  const std::string log = contents_of(tiny.directory("log") + "/speedrun.log");
  EXPECT_THAT(printed, HasSubstr("288 tokens, not the records' 10485760"));
  EXPECT_THAT(printed, HasSubstr(tiny.directory("log") + "/speedrun.log"));
  EXPECT_THAT(log, HasSubstr("288 tokens, not the records' 10485760"));
  EXPECT_THAT(log, HasSubstr("warm-up: 10 steps on made-up tokens"));
  EXPECT_THAT(log, HasSubstr("\nranks: 1\n"));
  EXPECT_THAT(log, HasSubstr("step times in ms: 20 steps"));
  EXPECT_THAT(log, Not(HasSubstr("interrupted")));
  EXPECT_THAT(log, HasSubstr("\nconfiguration:\n" + contents_of(tiny.directory("log") + "/config.yaml")));
  const MetricsFile metrics = read_metrics(tiny.directory("log") + "/metrics.jsonl");
  EXPECT_THAT(log, HasSubstr("hardware: " + metrics.header.device));
  EXPECT_THAT(log, HasSubstr("spectrain " + metrics.header.version));
  std::string first;
  for (const MetricsLine& l : metrics.lines) {
    if (!l.val_loss) continue;
    EXPECT_THAT(log, HasSubstr(fmt::format("step:{}/20 val_loss:{:.4f} train_time:{:.0f}ms", l.step,
                                           *l.val_loss, 1000 * l.train_seconds)));
    if (first.empty() && *l.val_loss <= 5.3)
      first = fmt::format("first validation at or below it: step {}, {} tokens", l.step, l.tokens);
  }
  ASSERT_NE(first, "");
  EXPECT_THAT(log, HasSubstr(first));
}

TEST(Speedrun, CrossingsAreInterpolatedAndMissingOnesSaid) {
  SpeedrunRecord r;
  r.steps = 250;
  r.validation_tokens = kSpeedrunValidationTokens;
  r.validations = {{0, 0, 0, 10.8258}, {125, 1250, 12.5, 3.4}, {250, 2500, 26, 3.2}};
  r.step_seconds.assign(250, 0.1);
  EXPECT_THAT(speedrun_log(r), HasSubstr("target: none (train.target is not set)\n"));
  r.target = 3.25;
  const std::string log = speedrun_log(r);
  EXPECT_THAT(log, HasSubstr("step:0/250 val_loss:10.8258 train_time:0ms step_avg:0.00ms\n"
                             "step:125/250 val_loss:3.4000 train_time:12500ms step_avg:100.00ms\n"
                             "step:250/250 val_loss:3.2000 train_time:26000ms step_avg:104.00ms\n"));
  EXPECT_THAT(log, HasSubstr("validation: 10485760 tokens; not timed\n"));
  EXPECT_THAT(log, HasSubstr("target 3.25: first validation at or below it: step 250, 2500 tokens, val_loss "
                             "3.2000, train_time 26000ms\n"));
  EXPECT_THAT(log, HasSubstr("target 3.25: by interpolation between validations: step 218.8, 2188 tokens, "
                             "train_time 22625ms\n"));
  r.target = 3;
  r.step_seconds.resize(200);
  EXPECT_THAT(speedrun_log(r), HasSubstr("target 3: not reached\n"));
  EXPECT_THAT(speedrun_log(r), HasSubstr("interrupted after step 200 of 250\n"));
}

TEST(Speedrun, ARunIsTimedInOnePiece) {
  const TinyRun tiny;
  auto arguments = train_arguments(tiny.config(), named("pieces"), Existing::resume);
  arguments.emplace_back("--speedrun");
  const Finished f = run_program(arguments, tiny / "pieces-output");
  EXPECT_EQ(f.code, 2);
  EXPECT_THAT(f.err, HasSubstr("--speedrun times a run in one piece"));
  EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;
  EXPECT_FALSE(std::filesystem::exists(tiny.directory("pieces")));
}

}  // namespace
}  // namespace spectrain
