#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/train/tiny_run.h"

// Runs that go bad: they stop and say where it began, and what was saved before stays.

namespace spectrain {
namespace {

using testing::AnyOf;
using testing::ContainsRegex;
using testing::HasSubstr;

TEST(NonFinite, ARunThatDivergesStopsAndKeepsWhatItHad) {
  const TinyRun tiny;
  // Sane until the checkpoint of step 4, then steps of any size.
  const std::string constant = "schedule.shape=constant";
  train(tiny.adamw_config(), named("diverges", {"train.steps=4", constant}));
  const SavedBytes before = newest_saved(tiny.checkpoints("diverges"));
  for (const char* lr : {"optimizer.0.lr=1e30", "optimizer.0.lr=1e18", "optimizer.0.lr=1e37"}) {
    SCOPED_TRACE(lr);
    const Finished f =
        run_program(train_arguments(tiny.adamw_config(), named("diverges", {lr, "train.steps=60", constant}),
                                    Existing::resume),
                    tiny / "diverges-output");
    EXPECT_EQ(f.code, 1) << f.out;
    EXPECT_THAT(f.err, ContainsRegex("step [0-9]+"));
    EXPECT_THAT(f.err, AnyOf(HasSubstr("nan"), HasSubstr("inf"), HasSubstr("not finite")));
    EXPECT_THAT(f.err, HasSubstr("checkpoint of step 4"));
    EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;
    expect_same_bytes(newest_saved(tiny.checkpoints("diverges")), before);
  }
}

TEST(NonFinite, TheFirstBadValueIsNamed) {
  const TinyRun tiny;
  train(tiny.config(), named("bad", {"train.steps=4"}));
  change_weights(tiny.config(), named("bad"), tiny.checkpoints("bad"),
                 [](const std::string& name, std::span<float> values) {
                   if (name == "h.1.mlp.up.weight") values[17] = std::numeric_limits<float>::quiet_NaN();
                 });
  const SavedBytes before = newest_saved(tiny.checkpoints("bad"));
  for (const char* validating : {"train.validate.every=0", "train.validate.every=4"}) {
    const Finished f =
        run_program(train_arguments(tiny.config(),
                                    named("bad", {"train.steps=8", "train.checkpoint.every=1", validating}),
                                    Existing::resume),
                    tiny / "bad-output");
    EXPECT_EQ(f.code, 1) << f.out;
    EXPECT_THAT(f.err, HasSubstr("nan"));
    EXPECT_THAT(f.err, HasSubstr("h.1.mlp")) << "everything after it is bad, everything before it is good";
    EXPECT_THAT(f.err, HasSubstr("checkpoint of step 4"));
    expect_same_bytes(newest_saved(tiny.checkpoints("bad")), before);
  }
}

// The last step of a run has no loss of a next one that would find out.
TEST(NonFinite, AnUpdateThatDestroysTheWeightsIsNeverSaved) {
  const TinyRun tiny;
  train(tiny.adamw_config(), named("last", {"train.steps=4", "schedule.shape=constant"}));
  const SavedBytes before = newest_saved(tiny.checkpoints("last"));
  for (const char* steps : {"train.steps=5", "train.steps=9"}) {
    const Finished f =
        run_program(train_arguments(tiny.adamw_config(),
                                    named("last", {steps, "schedule.shape=constant", "optimizer.0.lr=1e300",
                                                   "train.checkpoint.every=1", "train.checkpoint.keep=1"}),
                                    Existing::resume),
                    tiny / "last-output");
    EXPECT_EQ(f.code, 1) << f.out;
    EXPECT_THAT(f.err, HasSubstr("step 5"));
    EXPECT_THAT(f.err, HasSubstr("checkpoint of step 4"));
    expect_same_bytes(newest_saved(tiny.checkpoints("last")), before);
  }
}

// What follows the header of a safetensors file, which also names the step.
std::string values_of(const std::string& file) {
  std::uint64_t header = 0;
  std::memcpy(&header, file.data(), 8);
  return file.substr(8 + header);
}

TEST(NonFinite, AGradientThatIsNotFiniteSkipsTheStep) {
  const TinyRun tiny;
  train(tiny.config(), named("skips", {"train.steps=4"}));
  spoil_gradients(tiny, "skips");
  const SavedBytes before = newest_saved(tiny.checkpoints("skips"));
  const Finished f =
      run_program(train_arguments(tiny.config(), named("skips", {"train.steps=7", "train.log_every=2"}),
                                  Existing::resume),
                  tiny / "skips-output");
  EXPECT_EQ(f.code, 0) << f.err;
  for (const char* said : {"step 5: a gradient is not finite", "step 6: a gradient is not finite",
                           "step 7: a gradient is not finite", "3 steps were skipped"})
    EXPECT_THAT(f.out, HasSubstr(said));
  // Nothing was updated, and the metrics say so even where a step has no line of its own by log_every.
  const SavedBytes after = newest_saved(tiny.checkpoints("skips"));
  EXPECT_EQ(after.step, 7);
  EXPECT_TRUE(values_of(after.model) == values_of(before.model));
  EXPECT_TRUE(values_of(after.optimizer) == values_of(before.optimizer));
  int skipped = 0;
  for (const MetricsLine& l : read_metrics(tiny.directory("skips") + "/metrics.jsonl").lines)
    for (const auto& [name, value] : l.more)
      if (name == "skipped") {
        EXPECT_TRUE(std::get<bool>(value));
        EXPECT_TRUE(std::isfinite(l.train_loss.value()));
        ++skipped;
      }
  EXPECT_EQ(skipped, 3);
}

}  // namespace
}  // namespace spectrain
