#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/error.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/train/tiny_run.h"

// Runs on a device that is a step ahead of the host, and decides by itself whether a step counts: what the
// user reads of them is what a run on the host says. On the emulated GPU.

namespace spectrain {
namespace {

using testing::HasSubstr;

// An emulated product takes its time.
std::vector<std::string> quick(const std::string& run, std::vector<std::string> overrides) {
  overrides.insert(overrides.begin(), "optimizer.0.newton_schulz.steps=2");
  return named(run, std::move(overrides));
}

class DeviceRun : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "one thread with many stacks is not understood by this sanitizer";
#endif
  }
  std::string train_there(const std::vector<std::string>& overrides, Existing existing = Existing::refuse) {
    const auto backend = make_emulated_cuda_backend();
    return train_on(*backend, tiny_.config(), overrides, existing);
  }
  std::vector<MetricsLine> lines(const std::string& run) const {
    return read_metrics(tiny_.directory(run) + "/metrics.jsonl").lines;
  }
  TinyRun tiny_;
};

TEST_F(DeviceRun, WritesDownWhatARunOnTheHostDoes) {
  const std::vector<std::string> settings = {"train.steps=8", "train.validate.every=3",
                                             "train.checkpoint.every=4", "train.clip=0.5"};
  train(tiny_.config(), quick("host", settings));
  train_there(quick("device", settings));
  const auto host = lines("host"), device = lines("device");
  ASSERT_EQ(host.size(), device.size());
  double seconds = 0;
  for (std::size_t i = 0; i < host.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(device[i].step, host[i].step);
    EXPECT_EQ(device[i].tokens, host[i].tokens);
    ASSERT_EQ(device[i].train_loss.has_value(), host[i].train_loss.has_value());
    ASSERT_EQ(device[i].val_loss.has_value(), host[i].val_loss.has_value());
    EXPECT_NEAR(device[i].train_loss.value_or(0), host[i].train_loss.value_or(0), 1e-4);
    EXPECT_NEAR(device[i].val_loss.value_or(0), host[i].val_loss.value_or(0), 1e-4);
    EXPECT_GE(device[i].train_seconds, seconds);
    seconds = device[i].train_seconds;
    for (const auto& [name, value] : device[i].more)
      EXPECT_TRUE(name != "tokens_per_second" || std::get<double>(value) > 0);
  }
  EXPECT_EQ(newest_saved(tiny_.checkpoints("device")).step, 8);
}

TEST_F(DeviceRun, GoesOnBitForBit) {
  const std::string every = "train.validate.every=3";
  train_there(quick("whole", {"train.steps=6", every}));
  train_there(quick("cut", {"train.steps=6", "train.stop=3", every}));
  train_there(quick("cut", {"train.steps=6", every}), Existing::resume);
  EXPECT_EQ(timeless_metrics(tiny_.directory("cut")), timeless_metrics(tiny_.directory("whole")));
  expect_same_bytes(newest_saved(tiny_.checkpoints("cut")), newest_saved(tiny_.checkpoints("whole")));
}

TEST_F(DeviceRun, ALossThatIsNoNumberIsFoundOutWithItsOwnBatch) {
  train_there(quick("bad", {"train.steps=4"}));
  change_weights(tiny_.config(), named("bad"), tiny_.checkpoints("bad"),
                 [](const std::string& name, std::span<float> values) {
                   if (name == "h.1.mlp.up.weight") values[17] = std::numeric_limits<float>::quiet_NaN();
                 });
  const SavedBytes before = newest_saved(tiny_.checkpoints("bad"));
  for (const char* steps : {"train.steps=5", "train.steps=9"}) {
    try {
      train_there(quick("bad", {steps, "train.validate.every=0", "train.checkpoint.every=1"}),
                  Existing::resume);
      ADD_FAILURE() << "nobody noticed";
    } catch (const Error& e) {
      EXPECT_THAT(e.what(), HasSubstr("step 5: the training loss is nan"));
      EXPECT_THAT(e.what(), HasSubstr("h.1.mlp"));
      EXPECT_THAT(e.what(), HasSubstr("The checkpoint of step 4 is intact"));
    }
    expect_same_bytes(newest_saved(tiny_.checkpoints("bad")), before);
  }
}

// As on the host (nonfinite_test.cpp): the loss is finite, a gradient is not.
TEST_F(DeviceRun, SkippedStepsAreToldOneByOne) {
  train_there(quick("skips", {"train.steps=4"}));
  spoil_gradients(tiny_, "skips");
  const std::string out =
      train_there(quick("skips", {"train.steps=7", "train.log_every=2"}), Existing::resume);
  for (const char* said : {"step 5: a gradient is not finite", "step 6: a gradient is not finite",
                           "step 7: a gradient is not finite", "3 steps were skipped"})
    EXPECT_THAT(out, HasSubstr(said));
  std::vector<std::int64_t> skipped;
  for (const MetricsLine& l : lines("skips"))
    for (const auto& [name, value] : l.more)
      if (name == "skipped") skipped.push_back(l.step);
  EXPECT_EQ(skipped, (std::vector<std::int64_t>{5, 6, 7}));
  try {
    train_there(quick("skips", {"train.steps=40"}), Existing::resume);
    ADD_FAILURE() << "more steps in a row than may be skipped";
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("step 17: the gradients of 10 steps in a row were not finite"));
  }
}

}  // namespace
}  // namespace spectrain
