#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "tests/kernels/rank_processes.h"

// The same over MPI: fewer cases, for all but the messages themselves is the same code.

namespace spectrain {
namespace {

using ::testing::HasSubstr;

int count_of(const std::string& part, const std::string& text) {
  int count = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class MpiCollectives : public ::testing::Test {
 protected:
  void SetUp() override {
    if (SPECTRAIN_MPI == 0) GTEST_SKIP() << "this build has no MPI part (libopenmpi-dev was not found)";
    if (std::system("command -v mpirun >/dev/null 2>&1") != 0) GTEST_SKIP() << "mpirun is not on PATH";
  }

  Ended run(int ranks, const std::string& scenario, int number, double timeout, double seconds) {
    std::vector<std::string> all = {
        "mpirun", "--oversubscribe",    "--bind-to", "none", "--mca", "btl", "self,vader",
        "-n",     std::to_string(ranks)};
    for (const std::string& a : TcpJob::rank_arguments("mpi", 0, 0, "0", timeout, scenario, number))
      all.push_back(a);
    Processes job;
    // Sanitizers: what the MPI library keeps to the end, and its own threads, are not ours to judge.
    job.start(all, {"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1",
                    "ASAN_OPTIONS=detect_leaks=0", "TSAN_OPTIONS=ignore_noninstrumented_modules=1"});
    return job.wait(seconds)[0];
  }
};

TEST_F(MpiCollectives, RanksAddInTheirOrder) {
  for (const int ranks : {1, 2, 3}) {
    const Ended e = run(ranks, "collectives", 0, 60, 60);
    EXPECT_EQ(e.code, 0) << e.out;
    EXPECT_EQ(count_of("done\n", e.out), ranks) << e.out;
    TcpJob tcp(ranks, 60, "collectives");
    const std::string out = tcp.wait(60)[0].out;
    const std::string sum = out.substr(out.find("sum "), 20);
    EXPECT_EQ(count_of(sum, e.out), ranks) << "not the bits of TCP: " << e.out;
  }
}

TEST_F(MpiCollectives, ARankThatGivesUpIsQuoted) {
  const Ended e = run(3, "fail", 2, 10, 20);
  EXPECT_FALSE(e.late);
  EXPECT_EQ(e.code, 1) << e.out;
  EXPECT_EQ(count_of("reports ", e.out), 1) << e.out;
  EXPECT_THAT(e.out, HasSubstr("reports rank 2: the disk is full"));
}

TEST_F(MpiCollectives, ARankThatHangsIsNamed) {
  for (const char* how : {"hang", "stop"}) {
    const Ended e = run(3, how, 1, 1, 20);
    EXPECT_FALSE(e.late) << e.out;
    EXPECT_NE(e.code, 0) << e.out;
    EXPECT_EQ(count_of("reports ", e.out), 1) << e.out;
    EXPECT_THAT(e.out, HasSubstr("reports rank 1 did not take part in all_reduce of losses within 1 s"));
  }
}

TEST_F(MpiCollectives, AKilledRankEndsTheOthers) {
  for (const int victim : {1, 0}) {
    const Ended e = run(3, "die", victim, 10, 20);
    EXPECT_FALSE(e.late) << e.out;
    EXPECT_NE(e.code, 0) << e.out;
    // mpirun may end all others before they can say anything; it then says so itself.
    EXPECT_LE(count_of("reports ", e.out), 1) << e.out;
    EXPECT_LT(e.seconds, 10);
  }
}

}  // namespace
}  // namespace spectrain
