#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "tests/train/tiny_run.h"

// `spectrain train --ranks N` with a mpirun that only writes down how it was called and then does what the
// test says: what happens between the two programs, without MPI.

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr const char* kMpirun = R"(#!/bin/sh
here=$(dirname "$0")
if [ "$1" = --version ]; then cat "$here/version"; exit 0; fi
printf '%s\n' "$@" > "$here/arguments"
env > "$here/environment"
cat > "$here/standard-input"
echo $$ > "$here/pid"
. "$here/behaviour"
)";

bool alive(pid_t pid) { return kill(pid, 0) == 0; }

bool within_seconds(double seconds, const std::function<bool()>& becomes_true) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!becomes_true()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

// The program of this build in a directory of its own, beside what it takes for the MPI plug-in, and that
// directory first on PATH.
class LaunchRanks : public testing::Test {
 protected:
  void SetUp() override {
    fs::create_directory(bin_);
    fs::copy_file(SPECTRAIN_BINARY_DIR "/spectrain", bin_ + "/spectrain");
    put_contents(bin_ + "/libspectrain_mpi.so", "");
    put_contents(bin_ + "/mpirun", kMpirun);
    fs::permissions(bin_ + "/mpirun", fs::perms::owner_all);
    put_contents(bin_ + "/version", "mpirun (Open MPI) 4.1.4\n");
  }

  pid_t start(std::vector<std::string> arguments, std::vector<std::string> more_environment = {}) {
    arguments.insert(arguments.begin(), bin_ + "/spectrain");
    std::vector<std::string> environment = {"OMP_WAIT_POLICY=PASSIVE", "TERM=xterm",
                                            "PATH=" + path_prefix_ + system_path_};
    environment.insert(environment.end(), more_environment.begin(), more_environment.end());
    const auto pointers = [](std::vector<std::string>& texts) {
      std::vector<char*> out;
      for (std::string& t : texts) out.push_back(t.data());
      out.push_back(nullptr);
      return out;
    };
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    // Standard input that ranks must not see.
    posix_spawn_file_actions_addopen(&files, 0, tiny_.config().c_str(), O_RDONLY, 0);
    constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&files, 1, (output_ + ".out").c_str(), kFlags, 0666);
    posix_spawn_file_actions_addopen(&files, 2, (output_ + ".err").c_str(), kFlags, 0666);
    pid_t pid = -1;
    EXPECT_EQ(posix_spawn(&pid, arguments[0].c_str(), &files, nullptr, pointers(arguments).data(),
                          pointers(environment).data()),
              0);
    posix_spawn_file_actions_destroy(&files);
    return pid;
  }
  Finished run(const std::vector<std::string>& arguments, const std::vector<std::string>& environment = {}) {
    return wait_for(start(arguments, environment), output_);
  }
  // `train tiny.yaml --ranks 2`, where mpirun goes on with these lines of shell.
  std::vector<std::string> two_ranks(const std::string& behaviour) {
    put_contents(bin_ + "/behaviour", behaviour + "\n");
    return {"train", tiny_.config(), "--ranks", "2"};
  }
  std::string written(const std::string& file) const { return contents_of(bin_ + "/" + file); }
  pid_t pid_in(const std::string& file) const {
    pid_t pid = 0;
    within_seconds(20, [&] { return (pid = std::atoi(written(file).c_str())) > 0; });
    return pid;
  }

  TinyRun tiny_;
  const std::string bin_ = tiny_ / "bin";
  const std::string output_ = tiny_ / "output";
  std::string path_prefix_ = bin_;
  std::string system_path_ = ":/usr/local/bin:/usr/bin:/bin";
};

TEST_F(LaunchRanks, MpirunStartsThisProgramWithTheSameArguments) {
  put_contents(bin_ + "/behaviour", "exit 0\n");
  for (const std::vector<std::string>& spelling :
       {std::vector<std::string>{"--ranks", "2"}, std::vector<std::string>{"--ranks=2"}}) {
    std::vector<std::string> arguments = {"train", "--device", "cpu"};
    arguments.insert(arguments.end(), spelling.begin(), spelling.end());
    arguments.insert(arguments.end(), {tiny_.config(), "--set", "run.name=two words", "--force"});
    const Finished f = run(arguments, {"RANK=0", "WORLD_SIZE=1", "SLURM_JOB_ID=7", "OMPI_MCA_btl=self,tcp"});
    EXPECT_EQ(f.code, 0);
    EXPECT_EQ(f.err, "");
    EXPECT_EQ(written("arguments"), "-n\n2\n" + fs::canonical(bin_).string() +
                                        "/spectrain\ntrain\n--device\ncpu\n" + tiny_.config() +
                                        "\n--set\nrun.name=two words\n--force\n");
  }
  EXPECT_EQ(written("standard-input"), "");
  const std::string environment = "\n" + written("environment");
  for (const char* set : {"\nOMPI_ALLOW_RUN_AS_ROOT=1\n", "\nOMPI_MCA_rmaps_base_oversubscribe=1\n",
                          "\nOMPI_MCA_hwloc_base_binding_policy=none\n", "\nOMPI_MCA_btl=self,tcp\n",
                          "\nOMP_WAIT_POLICY=PASSIVE\n"})
    EXPECT_THAT(environment, HasSubstr(set));
  for (const char* unset : {"\nRANK=", "\nWORLD_SIZE=", "\nSLURM_"})
    EXPECT_THAT(environment, Not(HasSubstr(unset)));
}

TEST_F(LaunchRanks, TheExitCodeIsTheRanks) {
  EXPECT_EQ(run(two_ranks("exit 0")).code, 0);
  const std::string sentence = "spectrain: rank 1: no data\n";
  for (const auto& [theirs, ours] : {std::pair{1, 1}, {2, 2}, {7, 1}, {137, 1}}) {
    const Finished f =
        run(two_ranks("echo 'spectrain: rank 1: no data' >&2; exit " + std::to_string(theirs)));
    EXPECT_EQ(f.code, ours);
    EXPECT_EQ(f.err, sentence);
  }
}

TEST_F(LaunchRanks, ARankThatEndedWithoutAWordIsNamed) {
  const Finished killed =
      run(two_ranks("d=--------------------------------------------------------------------------\n"
                    "printf '%s\\nmpirun noticed that process rank 1 with PID 9 on node h exited on signal 9 "
                    "(Killed).\\n%s\\n' "
                    "$d $d >&2; exit 137"));
  EXPECT_EQ(killed.code, 1);
  EXPECT_EQ(killed.err, "spectrain: rank 1 ended by signal 9 (Killed); saved checkpoints are intact\n");
  const Finished other = run(two_ranks("echo 'a box was not understood' >&2; exit 213"));
  EXPECT_EQ(other.code, 1);
  EXPECT_EQ(other.err, "a box was not understood\nspectrain: mpirun ended with exit code 213\n");
  const Finished mpirun_killed = run(two_ranks("kill -9 $$"));
  EXPECT_EQ(mpirun_killed.code, 1);
  EXPECT_EQ(mpirun_killed.err,
            "spectrain: mpirun ended by signal 9, and the ranks with it; saved checkpoints are intact\n");
}

TEST_F(LaunchRanks, AnInterruptReachesTheRanksOnceAsUsr1) {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    fs::remove(bin_ + "/ready");
    const pid_t pid =
        start(two_ranks("trap 'echo stopped; exit 0' USR1; trap 'echo killed; exit 1' INT TERM\n"
                        "echo 1 > \"$here/ready\"; while :; do sleep 0.02; done"));
    ASSERT_GT(pid_in("ready"), 0);
    kill(pid, signal);
    const Finished f = wait_for(pid, output_);
    EXPECT_EQ(f.code, 0) << f.err;
    EXPECT_EQ(f.out, "stopped\n");
  }
}

TEST_F(LaunchRanks, ASecondInterruptEndsThemAtOnce) {
  const pid_t pid =
      start(two_ranks("trap 'echo 1 > \"$here/first\"' USR1; trap 'exit 143' TERM\n"
                      "echo 1 > \"$here/ready\"; while :; do sleep 0.02; done"));
  ASSERT_GT(pid_in("ready"), 0);
  kill(pid, SIGINT);
  ASSERT_GT(pid_in("first"), 0);
  kill(pid, SIGINT);
  const Finished f = wait_for(pid, output_);
  EXPECT_EQ(f.code, 1);
  EXPECT_EQ(f.err, "spectrain: ended at once by the second interrupt; saved checkpoints are intact\n");
}

TEST_F(LaunchRanks, MpirunEndsWithItsParent) {
  const pid_t pid = start(two_ranks("echo 1 > \"$here/ready\"; while :; do sleep 0.02; done"));
  ASSERT_GT(pid_in("ready"), 0);
  const pid_t mpirun = pid_in("pid");
  ASSERT_TRUE(alive(mpirun));
  kill(pid, SIGKILL);
  EXPECT_EQ(wait_for(pid, output_).code, -1);
  EXPECT_TRUE(within_seconds(10, [&] {
    waitpid(-1, nullptr, WNOHANG);
    return !alive(mpirun);
  }));
}

TEST_F(LaunchRanks, NoRankOutlivesMpirun) {
  for (const char* end : {"exit 1", "kill -9 $$"}) {
    fs::remove(bin_ + "/rank");
    const pid_t pid =
        start(two_ranks(std::string("sleep 100 & echo $! > \"$here/rank\"; sleep 0.1; ") + end));
    const pid_t rank = pid_in("rank");
    ASSERT_GT(rank, 0);
    EXPECT_EQ(wait_for(pid, output_).code, 1);
    EXPECT_FALSE(alive(rank));
  }
}

TEST_F(LaunchRanks, WhatCannotBeIsSaidOnceBeforeARankStarts) {
  const auto refused = [&](int code, const std::string& part, std::vector<std::string> arguments) {
    const Finished f = run(arguments);
    EXPECT_EQ(f.code, code) << f.err;
    EXPECT_THAT(f.err, AllOf(StartsWith("spectrain: "), HasSubstr(part)));
    EXPECT_EQ(f.err.find('\n'), f.err.size() - 1) << f.err;
    EXPECT_FALSE(fs::exists(bin_ + "/arguments")) << "mpirun was started";
  };
  const std::string config = tiny_.config();
  refused(2, "unknown key \"model.layer\"", {"train", config, "--ranks", "2", "--set", "model.layer=3"});
  refused(2, "compute.device is cuda", {"train", config, "--ranks", "2", "--device", "cuda"});
  refused(2, "--ranks", {"train", config, "--ranks", "0"});
  refused(2, "--ranks", {"train", config, "--ranks", "1025"});
  refused(2, "--ranks excludes --gpus", {"train", config, "--ranks", "2", "--gpus", "2"});
  refused(
      2,
      "--gpus 4: this build has no CUDA part (libspectrain_cuda.so is not beside the program); use --ranks 4",
      {"train", config, "--gpus", "4", "--device", "auto"});
  refused(2, "--gpus is 4, but compute.device is cpu", {"train", config, "--gpus", "4"});

  put_contents(bin_ + "/version", "HYDRA build details:\n");
  refused(1, "is another one; install Open MPI", {"train", config, "--ranks", "2"});
  put_contents(bin_ + "/version", "mpirun (Open MPI) 4.1.4\n");
  fs::remove(bin_ + "/libspectrain_mpi.so");
  refused(1, "libspectrain_mpi.so, which was not built", {"train", config, "--ranks", "2"});
  path_prefix_ = tiny_ / "nowhere";
  system_path_.clear();
  refused(1, "mpirun, which is not on PATH; install Open MPI (Debian, Ubuntu: openmpi-bin)",
          {"train", config, "--ranks", "2"});
}

TEST_F(LaunchRanks, ANumberThatIsNotTheLaunchersIsRefusedByTheFirstRank) {
  const auto as_rank = [&](int rank) {
    return run({"train", tiny_.config(), "--ranks", "3"},
               {"OMPI_COMM_WORLD_SIZE=2", "OMPI_COMM_WORLD_RANK=" + std::to_string(rank),
                "OMPI_COMM_WORLD_LOCAL_SIZE=2", "OMPI_COMM_WORLD_LOCAL_RANK=" + std::to_string(rank)});
  };
  const Finished first = as_rank(0), second = as_rank(1);
  EXPECT_EQ(first.code, 2);
  EXPECT_THAT(first.err, HasSubstr("--ranks is 3, but Open MPI has started 2 ranks"));
  EXPECT_EQ(second.code, 2);
  EXPECT_EQ(second.err, "");
}

}  // namespace
}  // namespace spectrain
