#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <chrono>
#include <random>
#include <thread>

#include "kernels/cuda_plugin.h"
#include "tests/kernels/rank_processes.h"

// Collectives of GPUs, each rank a process (tests/kernels/ranks/nccl_rank.cpp): on emulated GPUs everywhere,
// where TCP stands for NCCL; on a machine with a GPU also with NCCL itself, all ranks on that one GPU.

namespace spectrain {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class NcclJob : public Processes {
 public:
  NcclJob(const std::string& device, int ranks, double timeout, const std::string& scenario, int number = 0) {
    const std::string port = std::to_string(TcpJob::free_port());
    for (int r = 0; r < ranks; ++r) {
      const std::string rank = std::to_string(r);
      // Ranks on hosts of different names may share a GPU, over connections; and small, for all must run at
      // once.
      start({std::string(SPECTRAIN_BINARY_DIR) + "/nccl_rank", device, rank, std::to_string(ranks), port,
             std::to_string(timeout), scenario, std::to_string(number)},
            {"NCCL_HOSTID=rank-" + rank, "NCCL_SOCKET_IFNAME=lo", "NCCL_IB_DISABLE=1", "NCCL_NVLS_ENABLE=0",
             "NCCL_MNNVL_ENABLE=0", "NCCL_CUMEM_ENABLE=0", "NCCL_MAX_CTAS=4", "NCCL_MULTI_RANK_GPU_ENABLE=1",
             // A rank that ends because another failed leaves to the process's end what the library holds.
             "ASAN_OPTIONS=detect_leaks=0"});
    }
  }
};

class Nccl : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    if (emulated()) GTEST_SKIP() << "one thread with many stacks is not understood by this sanitizer";
#endif
    if (emulated()) return;
    const CudaListing listing = list_cuda_devices();
    if (!listing.reason.empty()) GTEST_SKIP() << "no GPU: " << listing.reason;
    if (!listing.devices[0].problem.empty()) GTEST_SKIP() << listing.devices[0].problem;
    for (const CudaLibrary& library : list_cuda_libraries())
      if (library.name == "NCCL" && !library.problem.empty()) GTEST_SKIP() << library.problem;
  }
  static bool emulated() { return GetParam() == "emulated"; }
  // Long enough for NCCL to begin, on a GPU that several ranks take turns on.
  static int timeout() { return emulated() ? 2 : 20; }
  static void expect_done(NcclJob& job) {
    for (const Ended& e : job.wait(100)) {
      EXPECT_EQ(e.last_line(), "done") << e.out;
      EXPECT_EQ(e.code, 0);
    }
  }
};

// All but `victim` ended by themselves with code 1, one of them said `message`, the others nothing else.
template <class Matcher>
void expect_one_report(const std::vector<Ended>& ranks, int victim, int reporter, const Matcher& message) {
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (static_cast<int>(r) == victim) continue;
    EXPECT_FALSE(ranks[r].late) << "rank " << r << " did not end: " << ranks[r].out;
    EXPECT_EQ(ranks[r].code, 1) << ranks[r].out;
    const std::string line = ranks[r].last_line();
    if (static_cast<int>(r) != reporter) {
      EXPECT_THAT(line, StartsWith("silent ")) << "rank " << r;
      continue;
    }
    ASSERT_THAT(line, StartsWith("reports "));
    EXPECT_THAT(line.substr(8), message);
  }
}

TEST_P(Nccl, RanksComputeTogether) {
  for (const int ranks : {1, 2, 3, 4}) {
    NcclJob job(GetParam(), ranks, 60, "collectives", ranks - 1);
    expect_done(job);
  }
}

TEST_P(Nccl, RanksThatFinishAtOtherTimesEndWell) {
  for (const int number : {0, 1}) {
    NcclJob job(GetParam(), 3, 20, "early", number);
    expect_done(job);
  }
}

TEST_P(Nccl, AKilledRankEndsTheOthers) {
  const int kills = emulated() ? 16 : 6;
  std::mt19937 random(20251);
  for (int k = 0; k < kills; ++k) {
    const int ranks = 2 + k % 3, victim = static_cast<int>(random() % static_cast<unsigned>(ranks));
    NcclJob job(GetParam(), ranks, 20, "loop", k);
    for (int r = 0; r < ranks; ++r) ASSERT_TRUE(job.wait_for_text(r, "over nccl", 60));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 100'000));
    const double killed = job.elapsed();
    job.signal(victim, SIGKILL);
    const auto ended = job.wait(20);
    expect_one_report(ended, victim, victim == 0 ? 1 : 0,
                      AllOf(StartsWith("rank " + std::to_string(victim) + " ended "),
                            AnyOf(HasSubstr(" of gradient"), HasSubstr(" of weights of bucket 0"),
                                  HasSubstr(" of the checkpoint"), HasSubstr("before the first operation"))));
    for (const Ended& e : ended) EXPECT_LT(e.seconds - killed, emulated() ? 5 : 15);
    if (HasFailure()) FAIL() << "kill " << k << ", rank " << victim << " of " << ranks;
  }
}

TEST_P(Nccl, ARankThatStopsOrHangsIsNamed) {
  for (const char* how : {"stop", "hang"})
    for (const int victim : {0, 1}) {
      NcclJob job(GetParam(), 3, timeout(), how, victim);
      const auto ended = job.wait(timeout() + 15, victim);
      expect_one_report(ended, victim, victim == 0 ? 1 : 0,
                        "rank " + std::to_string(victim) +
                            " did not take part in all_reduce of losses within " + std::to_string(timeout()) +
                            " s");
    }
}

TEST_P(Nccl, ARankThatHangsItselfIsEndedByItsWatch) {
  NcclJob job(GetParam(), 2, timeout(), "hang", 1);
  const auto ended = job.wait(2 * timeout() + 20);
  EXPECT_FALSE(ended[1].late);
  EXPECT_EQ(ended[1].code, 1);
}

TEST_P(Nccl, ARankThatGivesUpIsQuoted) {
  for (const int victim : {2, 0}) {
    NcclJob job(GetParam(), 3, 20, "fail", victim);
    const auto ended = job.wait(30);
    if (victim == 2) {
      EXPECT_EQ(ended[2].last_line(), "silent the disk is full");
      expect_one_report(ended, 2, 0, "rank 2: the disk is full");
    } else {
      EXPECT_EQ(ended[0].last_line(), "reports the disk is full");
      for (const std::size_t r : {1u, 2u}) EXPECT_EQ(ended[r].last_line(), "silent rank 0: the disk is full");
    }
  }
}

TEST_P(Nccl, AnExceptionThatNobodyWasToldAboutEndsTheOthers) {
  NcclJob job(GetParam(), 3, 20, "thrown", 1);
  const auto ended = job.wait(30);
  EXPECT_EQ(ended[1].last_line(), "error a mistake");
  expect_one_report(ended, 1, 0, StartsWith("rank 1 ended "));
}

INSTANTIATE_TEST_SUITE_P(On, Nccl, ::testing::Values("emulated", "gpu"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace spectrain
