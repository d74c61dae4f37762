#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "tests/kernels/rank_processes.h"

// Two ranks on what is, for them, two machines, over a link of 20 Mbit/s.

namespace spectrain {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

bool shell(const std::string& command) {
  return std::system(("(" + command + ") >/dev/null 2>&1").c_str()) == 0;
}

class CollectivesNetwork : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!shell("command -v ip && command -v tc")) GTEST_SKIP() << "ip and tc (iproute2) are not on PATH";
    const std::string id = std::to_string(getpid());
    for (int r = 0; r < 2; ++r) {
      spaces_[r] = "spectrain" + id + (r == 0 ? "a" : "b");
      links_[r] = "sp" + id + (r == 0 ? "a" : "b");
    }
    made_ = true;
    if (!shell("ip netns add " + spaces_[0]) || !shell("ip netns add " + spaces_[1]))
      GTEST_SKIP() << "this machine does not let us make network namespaces";
    if (!shell("ip link add " + links_[0] + " netns " + spaces_[0] + " type veth peer name " + links_[1] +
               " netns " + spaces_[1]))
      GTEST_SKIP() << "this machine does not let us make a pair of network interfaces";
    for (int r = 0; r < 2; ++r) {
      const std::string in = "ip -n " + spaces_[r];
      ASSERT_TRUE(shell(in + " addr add 10.77.0." + std::to_string(r + 1) + "/24 dev " + links_[r]));
      ASSERT_TRUE(shell(in + " link set lo up") && shell(in + " link set " + links_[r] + " up"));
      if (!shell("tc -n " + spaces_[r] + " qdisc add dev " + links_[r] +
                 " root tbf rate 20mbit burst 32kbit latency 400ms"))
        GTEST_SKIP() << "this machine has no traffic shaping (tc qdisc tbf)";
    }
  }
  void TearDown() override {
    if (!made_) return;
    for (const std::string& s : spaces_) shell("ip netns del " + s);
  }

  void start(Processes& job, int rank, double timeout, const std::string& scenario,
             const std::string& first = "10.77.0.1") const {
    std::vector<std::string> all = {"ip", "netns", "exec", spaces_[rank]};
    for (const std::string& a :
         TcpJob::rank_arguments("tcp", rank, 2, first + ":29500", timeout, scenario, 0))
      all.push_back(a);
    job.start(all);
  }

  std::string spaces_[2], links_[2];
  bool made_ = false;
};

TEST_F(CollectivesNetwork, TwoMachinesMeetAndTransfersLongerThanTheTimeoutEndWell) {
  Processes job;
  start(job, 1, 1, "slow");  // rank 0 comes later
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  start(job, 0, 1, "slow");
  for (const Ended& e : job.wait(30)) {
    EXPECT_EQ(e.last_line(), "done") << e.out;
    EXPECT_GT(e.seconds, 2.0) << "the link was not slow";
  }
}

TEST_F(CollectivesNetwork, ALinkThatGoesDownEndsBothWithinTheTimeout) {
  Processes job;
  for (const int r : {0, 1}) start(job, r, 2, "slow");
  for (const int r : {0, 1}) ASSERT_TRUE(job.wait_for_text(r, "over tcp", 20));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const double down = job.elapsed();
  ASSERT_TRUE(shell("ip -n " + spaces_[1] + " link set " + links_[1] + " down"));
  const auto ended = job.wait(20);
  // Nobody can tell a dead machine from a dead link: each side takes the other for the one that is gone.
  for (const Ended& e : ended) {
    EXPECT_FALSE(e.late);
    EXPECT_EQ(e.code, 1);
    EXPECT_LT(e.seconds - down, 10.0);
    EXPECT_THAT(e.last_line(), HasSubstr(" did not take part in all_gather of weights within 2 s"));
  }
}

TEST_F(CollectivesNetwork, AMachineThatDoesNotAnswerIsNamed) {
  Processes job;
  start(job, 0, 1, "few");
  start(job, 1, 1, "few", "10.77.0.9");
  const auto ended = job.wait(20);
  EXPECT_THAT(ended[0].last_line(), StartsWith("reports 1 of 2 ranks came within 1 s; rank 1 did not"));
  EXPECT_THAT(ended[1].last_line(), StartsWith("error rank 0 could not be reached at 10.77.0.9:29500"));
}

}  // namespace
}  // namespace spectrain
