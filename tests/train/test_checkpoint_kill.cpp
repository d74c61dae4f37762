#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <random>
#include <thread>

#include "tests/train/scratch_directory.h"
#include "train/checkpoint.h"
#include "train/checkpoint_files.h"

// A process that writes checkpoints as fast as it can is killed with SIGKILL at random moments; whatever is
// visible afterwards must be whole and of one step.

namespace spectrain {
namespace {

constexpr const char* kDirectoryVariable = "SPECTRAIN_TEST_KILL_DIRECTORY";
constexpr int kKeep = 2, kKills = 60;

// 1.2 MB in all: long enough to be hit while the data is written, short enough for all other moments too.
struct Values {
  std::vector<float> model = std::vector<float>(200'000), optimizer = std::vector<float>(100'000);
  void set(std::int64_t step) {
    std::fill(model.begin(), model.end(), static_cast<float>(step));
    std::fill(optimizer.begin(), optimizer.end(), static_cast<float>(step) * 2);
  }
  std::vector<StateTensor> model_tensors() { return {{"w", Tensor(model.data(), DType::f32, {400, 500})}}; }
  std::vector<StateTensor> optimizer_tensors() {
    return {{"w.momentum", Tensor(optimizer.data(), DType::f32, {100'000})}};
  }
};

// The victim: goes on from the newest checkpoint, every third step written twice (as a run that went back
// would). A test by form only, so that the same binary can be started again as another process.
TEST(CheckpointKill, DISABLED_Victim) {
  const char* directory = std::getenv(kDirectoryVariable);
  if (directory == nullptr) GTEST_SKIP() << "only the test below starts this";
  const auto backend = make_cpu_backend({.threads = 1});
  Values values;
  const auto newest = newest_checkpoint(directory);
  for (std::int64_t step = newest ? newest->step + 1 : 0;; ++step) {
    values.set(step);
    for (int times = step % 3 == 0 ? 2 : 1; times > 0; --times)
      write_checkpoint(directory, step,
                       {values.model_tensors(), values.optimizer_tensors(), {{"step", step}}}, *backend,
                       kKeep);
  }
}

pid_t start_victim(const std::string& directory) {
  const std::string variable = std::string(kDirectoryVariable) + "=" + directory;
  std::vector<char*> environment;
  for (char** e = environ; *e != nullptr; ++e)
    if (!std::string_view(*e).starts_with("GTEST_")) environment.push_back(*e);
  environment.push_back(const_cast<char*>(variable.c_str()));
  environment.push_back(nullptr);
  const char* arguments[] = {"victim", "--gtest_filter=CheckpointKill.DISABLED_Victim",
                             "--gtest_also_run_disabled_tests", "--gtest_brief=1", nullptr};
  pid_t pid = -1;
  if (posix_spawn(&pid, "/proc/self/exe", nullptr, nullptr, const_cast<char**>(arguments),
                  environment.data()) != 0)
    return -1;
  return pid;
}

// Every visible checkpoint loads and is of one step; returns the newest step, -1 when there is none.
std::int64_t check_all(const std::string& directory, Backend& backend) {
  std::int64_t newest = -1;
  for (const StepDirectory& d : step_directories(directory)) {
    Values loaded, expected;
    const CheckpointReader reader(d.path);
    reader.load_model(backend, loaded.model_tensors());
    reader.load_optimizer(backend, loaded.optimizer_tensors());
    expected.set(d.step);
    EXPECT_TRUE(loaded.model == expected.model && loaded.optimizer == expected.optimizer) << "mixed steps";
    EXPECT_EQ(reader.step(), d.step);
    EXPECT_EQ(reader.state().at("step").get<std::int64_t>(), d.step);
    newest = d.step;
  }
  return newest;
}

TEST(CheckpointKill, NothingTornIsEverVisible) {
  ScratchDirectory scratch;
  const std::string directory = scratch / "checkpoints";
  const auto backend = make_cpu_backend({.threads = 1});
  std::mt19937 random(20240521);
  std::int64_t newest = -1;
  int during_write = 0;
  for (int kill_number = 0; kill_number < kKills; ++kill_number) {
    const pid_t victim = start_victim(directory);
    ASSERT_GT(victim, 0);
    // From the moment it writes on: its start takes longer than a checkpoint.
    const auto begun = std::chrono::steady_clock::now();
    while (step_directories(directory).empty() || step_directories(directory).back().step <= newest) {
      if (std::chrono::steady_clock::now() - begun > std::chrono::seconds(20)) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 30'000));
    kill(victim, SIGKILL);
    int status = 0;
    waitpid(victim, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the victim ended by itself";
    for (const auto& e : std::filesystem::directory_iterator(directory))
      if (e.path().filename().string().starts_with(".")) ++during_write;
    const std::int64_t now = check_all(directory, *backend);
    ASSERT_FALSE(testing::Test::HasFailure()) << "after kill " << kill_number;
    ASSERT_GT(now, newest) << "the victim made no progress";
    const auto found = newest_checkpoint(directory);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, now);
    EXPECT_TRUE(found->notes.empty());
    newest = now;
  }
  // A kill between a checkpoint and its pruning leaves one more; the next that is not killed makes good.
  Values values;
  values.set(newest + 1);
  write_checkpoint(directory, newest + 1,
                   {values.model_tensors(), values.optimizer_tensors(), {{"step", newest + 1}}}, *backend,
                   kKeep);
  EXPECT_EQ(step_directories(directory).size(), static_cast<std::size_t>(kKeep));
  EXPECT_EQ(check_all(directory, *backend), newest + 1);
  // Otherwise the kills came too late to prove anything.
  EXPECT_GT(during_write, kKills / 4);
  RecordProperty("kills_during_a_write", during_write);
}

}  // namespace
}  // namespace spectrain
