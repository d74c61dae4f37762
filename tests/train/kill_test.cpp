#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include "tests/train/tiny_run.h"
#include "train/checkpoint.h"
#include "train/checkpoint_files.h"

// The program itself, killed with SIGKILL again and again and resumed each time, is in the end the program
// that nobody touched.

namespace spectrain {
namespace {

// Microseconds, about.
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kTenSteps = 600'000;
#else
constexpr int kTenSteps = 60'000;
#endif

constexpr int kKills = 55;
constexpr std::int64_t kSteps = 100000;  // more than all the lives together reach

using Clock = std::chrono::steady_clock;

std::int64_t newest_step(const std::string& checkpoints) {
  const auto all = step_directories(checkpoints);
  return all.empty() ? 0 : all.back().step;
}

TEST(Kill, AtAnyMomentLosesNothingThatWasSaved) {
  const TinyRun tiny;
  // Everything happens all the time: a checkpoint after every second step, a validation after every third,
  // and epochs and shards that end.
  std::vector<std::string> overrides = {"train.steps=" + std::to_string(kSteps), "train.checkpoint.every=2",
                                        "train.validate.every=3", "schedule.shape=constant",
                                        "train.validate.tokens=64"};
  const auto first = train_arguments(tiny.config(), named("killed", overrides));
  const auto again = train_arguments(tiny.config(), named("killed", overrides), Existing::resume);
  const std::string checkpoints = tiny.checkpoints("killed");

  std::mt19937 random(20240613);
  std::int64_t newest = 0;
  int early = 0, torn_files = 0, lost_steps = 0;
  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    const bool begun = std::filesystem::exists(tiny.directory("killed"));
    const pid_t pid = start_program(begun ? again : first, tiny / "killed-output");
    ASSERT_GT(pid, 0);
    // Every sixth dies on its way to the first step; the others somewhere in the ten steps after a checkpoint
    // of their own.
    const auto begin = Clock::now();
    if (kill_number % 6 == 5) {
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 200'000));
      ++early;
    } else {
      while (newest_step(checkpoints) <= newest && Clock::now() - begin < std::chrono::seconds(30))
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      std::this_thread::sleep_for(std::chrono::microseconds(random() % kTenSteps));
    }
    kill(pid, SIGKILL);
    const Finished f = wait_for(pid, tiny / "killed-output");
    ASSERT_EQ(f.code, -1) << "it ended by itself: " << f.err << f.out;
    for (const auto& e : std::filesystem::directory_iterator(checkpoints))
      torn_files += e.path().filename().string().starts_with(".") ? 1 : 0;

    // What is visible is whole, and nothing that was there is gone.
    const auto found = newest_checkpoint(checkpoints, Verify::contents);
    ASSERT_TRUE(found) << "after kill " << kill_number;
    ASSERT_TRUE(found->notes.empty()) << found->notes.front();
    ASSERT_GE(found->step, newest);
    const auto lines = read_metrics(tiny.directory("killed") + "/metrics.jsonl").lines;
    lost_steps += !lines.empty() && lines.back().step > found->step ? 1 : 0;
    newest = found->step;
  }
  ASSERT_LT(newest, kSteps);
  // Otherwise the kills came where they prove nothing.
  EXPECT_GT(torn_files, kKills / 10) << "too few in the middle of a checkpoint";
  EXPECT_GT(lost_steps, kKills / 10) << "too few after a step that was not saved";
  RecordProperty("kills_while_saving", torn_files);
  RecordProperty("kills_after_unsaved_steps", lost_steps);

  // A little further to the end, against a run that did it in one go. The schedule is flat: its length
  // changes nothing before.
  overrides[0] = "train.steps=" + std::to_string(newest + 5);
  train(tiny.config(), named("killed", overrides), Existing::resume);
  overrides[1] = "train.checkpoint.every=0";
  train(tiny.config(), named("whole", overrides));
  expect_same_bytes(newest_saved(checkpoints), newest_saved(tiny.checkpoints("whole")));
  EXPECT_EQ(timeless_metrics(tiny.directory("killed")), timeless_metrics(tiny.directory("whole")));
  EXPECT_LE(list_checkpoints(checkpoints).size(), 2u);
}

}  // namespace
}  // namespace spectrain
