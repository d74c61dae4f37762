#include "train/local_ranks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <thread>

#include "tests/train/tiny_run.h"
#include "train/gpu_ranks.h"
#include "train/launch.h"

// What `spectrain train --gpus N` does around its ranks, with ranks that are lines of shell, and with the
// program itself on the CPU.

namespace spectrain {
namespace {

using ::testing::HasSubstr;

class LocalRanks : public testing::Test {
 protected:
  LocalRanksEnd run(const std::string& shell, int ranks = 3, double grace = 10) {
    return run_local_ranks({"/bin/sh", "-c", shell}, ranks, grace,
                           [this](std::string_view bytes) { error_ += bytes; });
  }
  // In a process of its own, which the test may end; it ends with the ranks' code.
  pid_t start(const std::string& shell, int ranks = 2) {
    const pid_t pid = fork();
    if (pid == 0) _exit(10 * run(shell, ranks).interrupts + run("exit 0", 1).code);
    return pid;
  }
  std::string written(const std::string& file) const { return contents_of(tiny_ / file); }
  bool appears(const std::string& file) const {
    for (int i = 0; i < 2000 && written(file).empty(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return !written(file).empty();
  }
  static int code_of(pid_t pid) {
    int status = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

  TinyRun tiny_;
  const std::string here_ = "cd " + (tiny_ / "") + "; ";
  std::string error_;
};

TEST_F(LocalRanks, EachFindsItsPlace) {
  setenv("SLURM_PROCID", "7", 1);
  setenv("TORCHELASTIC_USE_AGENT_STORE", "True", 1);
  const LocalRanksEnd end = run(here_ + "env > rank-$RANK; cat > input-$RANK");
  unsetenv("SLURM_PROCID");
  unsetenv("TORCHELASTIC_USE_AGENT_STORE");
  EXPECT_EQ(end.code, 0);
  int listener = -1;
  for (int rank = 0; rank < 3; ++rank) {
    const std::string text = "\n" + written("rank-" + std::to_string(rank));
    const Launch launch = launch_from([&](const char* name) -> std::optional<std::string> {
      const std::string start = "\n" + std::string(name) + "=";
      const std::size_t at = text.find(start);
      if (at == text.npos) return std::nullopt;
      return text.substr(at + start.size(), text.find('\n', at + 1) - at - start.size());
    });
    EXPECT_EQ(launch.rank, rank);
    EXPECT_EQ(launch.local_rank, rank);
    EXPECT_EQ(launch.ranks, 3);
    EXPECT_EQ(launch.local_ranks, 3);
    EXPECT_EQ(launch.address, "127.0.0.1");
    EXPECT_GT(launch.port, 0);
    EXPECT_EQ(launch.listener >= 0, rank == 0);
    listener = std::max(listener, launch.listener);
    EXPECT_EQ(text.find("SLURM_PROCID"), text.npos);
    EXPECT_EQ(written("input-" + std::to_string(rank)), "");
  }
  EXPECT_GE(listener, 3);
}

TEST_F(LocalRanks, TheCodeIsTheRanks) {
  EXPECT_EQ(run("exit 0").code, 0);
  const LocalRanksEnd failed = run("if [ $RANK = 1 ]; then echo 'spectrain: no data' >&2; exit 1; fi");
  EXPECT_EQ(failed.code, 1);
  EXPECT_TRUE(failed.reported);
  EXPECT_EQ(failed.first->rank, 1);
  EXPECT_EQ(error_, "spectrain: no data\n");
  EXPECT_EQ(run("exit 2").code, 2);
  EXPECT_EQ(run("if [ $RANK = 1 ]; then exit 2; fi; sleep 0.1; exit 1").code, 2);
  EXPECT_EQ(run("exit 7").code, 1);
  const LocalRanksEnd missing = run_local_ranks({"/nowhere/program"}, 2, 1, [](std::string_view) {});
  EXPECT_EQ(missing.code, 1);
  EXPECT_FALSE(missing.reported);
}

TEST_F(LocalRanks, ARankThatDiesEndsTheOthers) {
  const auto begin = std::chrono::steady_clock::now();
  const LocalRanksEnd end = run("if [ $RANK = 2 ]; then kill -9 $$; fi; exec sleep 60", 3, 0.2);
  EXPECT_EQ(end.code, 1);
  EXPECT_FALSE(end.reported);
  EXPECT_EQ(end.first->rank, 2);
  EXPECT_EQ(WTERMSIG(end.first->status), SIGKILL);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
}

TEST_F(LocalRanks, TheOthersMaySayWhy) {
  const LocalRanksEnd end =
      run("if [ $RANK = 2 ]; then kill -9 $$; fi; sleep 0.3; [ $RANK = 0 ] && echo 'spectrain: rank 2 ended' "
          ">&2; "
          "exit 1");
  EXPECT_EQ(end.code, 1);
  EXPECT_TRUE(end.reported);
  EXPECT_EQ(error_, "spectrain: rank 2 ended\n");
}

TEST_F(LocalRanks, AnInterruptReachesThemOnceAsUsr1) {
  const pid_t pid = start(here_ +
                          "trap 'echo 1 > stopped-$RANK; exit 0' USR1; trap 'exit 9' INT TERM\n"
                          "echo 1 > ready-$RANK; while :; do sleep 0.02; done");
  ASSERT_TRUE(appears("ready-0") && appears("ready-1"));
  kill(pid, SIGINT);
  EXPECT_EQ(code_of(pid), 10);
  EXPECT_EQ(written("stopped-0") + written("stopped-1"), "1\n1\n");
}

TEST_F(LocalRanks, ASecondInterruptEndsThemAtOnce) {
  const pid_t pid =
      start(here_ + "trap 'echo 1 > first-$RANK' USR1\necho 1 > ready-$RANK; while :; do sleep 0.02; done");
  ASSERT_TRUE(appears("ready-0") && appears("ready-1"));
  kill(pid, SIGTERM);
  ASSERT_TRUE(appears("first-0") && appears("first-1"));
  kill(pid, SIGTERM);
  EXPECT_EQ(code_of(pid), 20);
}

TEST_F(LocalRanks, NoRankOutlivesItsParent) {
  const pid_t pid = start(here_ + "echo $$ > rank-$RANK; while :; do sleep 0.02; done");
  ASSERT_TRUE(appears("rank-0") && appears("rank-1"));
  kill(pid, SIGKILL);
  EXPECT_EQ(code_of(pid), -SIGKILL);
  for (const char* file : {"rank-0", "rank-1"}) {
    const pid_t rank = std::stoi(written(file));
    bool gone = false;
    for (int i = 0; i < 1000 && !gone; ++i) {
      // One that has ended may wait for whoever takes orphans here.
      const std::string stat = contents_of("/proc/" + std::to_string(rank) + "/stat");
      gone = stat.empty() || stat.find(") Z ") != stat.npos;
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    EXPECT_TRUE(gone);
  }
}

TEST_F(LocalRanks, TrainTogetherThroughTheSocketTheyInherit) {
  std::vector<std::string> arguments = train_arguments(tiny_.config(), {}, Existing::refuse);
  arguments.insert(arguments.begin(), SPECTRAIN_BINARY_DIR "/spectrain");
  arguments.insert(arguments.end(), {"--device", "cpu"});
  const LocalRanksEnd end =
      run_local_ranks(arguments, 2, 10, [this](std::string_view bytes) { error_ += bytes; });
  EXPECT_EQ(end.code, 0);
  EXPECT_EQ(error_, "");
}

TEST(GpuOfRank, IsThatOfItsLocalRankOrItsOwn) {
  const auto nothing = [](const char*) -> std::optional<std::string> { return std::nullopt; };
  const auto one = [](const char* name) -> std::optional<std::string> {
    return std::string(name) == "CUDA_VISIBLE_DEVICES" ? std::optional<std::string>("3") : std::nullopt;
  };
  Launch launch;
  launch.ranks = launch.local_ranks = 4;
  launch.local_rank = 2;
  EXPECT_EQ(gpu_of(launch, 4, nothing), 2);
  EXPECT_EQ(gpu_of(launch, 8, nothing), 2);
  EXPECT_EQ(gpu_of(launch, 3, nothing), -1);  // the same answer for all ranks of this host
  EXPECT_EQ(gpu_of(launch, 1, nothing), -1);
  EXPECT_EQ(gpu_of(launch, 1, one), 0);
  EXPECT_EQ(gpu_of(launch, 0, one), -1);
}

TEST(GpuOfRank, IsRefusedWhereTheProcessorIsAskedFor) {
  check_gpus_wanted(0, Device::cpu);
  check_gpus_wanted(2, Device::automatic);
  check_gpus_wanted(2, Device::cuda);
  EXPECT_THROW(check_gpus_wanted(2, Device::cpu), RequestError);
}

}  // namespace
}  // namespace spectrain
