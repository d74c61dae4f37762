#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "kernels/sockets.h"
#include "tests/kernels/rank_processes.h"

// A rank dies, hangs, gives up or never comes: every other rank ends within seconds, and exactly one of them
// says why, naming the rank and what was being done.

namespace spectrain {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

// All but `victim` ended by themselves with code 1, one of them said `message`, the others nothing else.
template <class Matcher>
void expect_one_report(const std::vector<Ended>& ranks, int victim, int reporter, const Matcher& message) {
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    if (static_cast<int>(r) == victim) continue;
    EXPECT_FALSE(ranks[r].late) << "rank " << r << " did not end: " << ranks[r].out;
    EXPECT_EQ(ranks[r].code, 1) << ranks[r].out;
    const std::string line = ranks[r].last_line();
    if (static_cast<int>(r) == reporter) {
      ASSERT_THAT(line, StartsWith("reports "));
      EXPECT_THAT(line.substr(8), message);
    } else {
      EXPECT_THAT(line, StartsWith("silent ")) << "rank " << r;
    }
  }
}

bool all_joined(TcpJob& job, int ranks) {
  for (int r = 0; r < ranks; ++r)
    if (!job.wait_for_text(r, "over tcp", 20)) return false;
  return true;
}

TEST(CollectivesFault, AKilledRankEndsTheOthers) {
  constexpr int kKills = 32;
  std::mt19937 random(20240801);
  double slowest = 0;
  int during = 0;
  for (int k = 0; k < kKills; ++k) {
    const int ranks = 2 + k % 3, victim = static_cast<int>(random() % static_cast<unsigned>(ranks));
    TcpJob job(ranks, 10, "loop", k);
    ASSERT_TRUE(all_joined(job, ranks));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 100'000));
    const double killed = job.elapsed();
    job.signal(victim, SIGKILL);
    const auto ended = job.wait(10);
    const std::string who = "rank " + std::to_string(victim) + " ended ";
    expect_one_report(
        ended, victim, victim == 0 ? 1 : 0,
        AllOf(StartsWith(who), AnyOf(HasSubstr(" of gradient"), HasSubstr(" of weights of bucket 0"),
                                     HasSubstr("before the first operation"))));
    for (const Ended& e : ended) {
      slowest = std::max(slowest, e.seconds - killed);
      during += e.out.find(who + "during ") != std::string::npos ? 1 : 0;
    }
    if (HasFailure()) FAIL() << "kill " << k << ", rank " << victim << " of " << ranks;
  }
  EXPECT_LT(slowest, 4.0);
  EXPECT_GT(during, kKills / 4) << "too few in the middle of an operation";
  RecordProperty("slowest_milliseconds", static_cast<int>(slowest * 1000));
}

TEST(CollectivesFault, ARankKilledBeforeAllHaveComeEndsTheOthers) {
  for (int k = 0; k < 4; ++k) {
    TcpJob job(3, 2, "loop", k);
    std::this_thread::sleep_for(std::chrono::milliseconds(2 * k));
    job.signal(k % 2 == 0 ? 2 : 0, SIGKILL);
    const auto ended = job.wait(15);
    for (const Ended& e : ended) EXPECT_FALSE(e.late) << e.out;
    EXPECT_EQ(ended[1].code, 1) << ended[1].out;
  }
}

TEST(CollectivesFault, AStoppedRankEndsTheOthers) {
  TcpJob jobs[] = {{3, 2, "loop"}, {3, 2, "loop"}};
  const int victims[] = {2, 0};
  double stopped[2];
  for (int k = 0; k < 2; ++k) {
    ASSERT_TRUE(all_joined(jobs[k], 3));
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    jobs[k].signal(victims[k], SIGSTOP);
    stopped[k] = jobs[k].elapsed();
  }
  for (int k = 0; k < 2; ++k) {
    const int victim = victims[k];
    const auto ended = jobs[k].wait(15, victim);
    expect_one_report(ended, victim, victim == 0 ? 1 : 0,
                      AllOf(StartsWith("rank " + std::to_string(victim) + " did not take part in "),
                            HasSubstr(" of "), HasSubstr(" within 2 s")));
    for (int r = 0; r < 3; ++r) {
      const double seconds = ended[static_cast<std::size_t>(r)].seconds - stopped[k];
      EXPECT_TRUE(r == victim || seconds < 9) << r << " took " << seconds << " s";
    }
  }
}

TEST(CollectivesFault, ARankThatDoesNotComeToAnOperationIsNamed) {
  TcpJob jobs[] = {{4, 1, "hang", 0}, {4, 1, "hang", 1}};
  for (const int victim : {0, 1}) {
    const auto ended = jobs[victim].wait(20);
    // It hangs itself and is ended by its own stream, without a word.
    expect_one_report(
        ended, victim, victim == 0 ? 1 : 0,
        "rank " + std::to_string(victim) + " did not take part in all_reduce of losses within 1 s");
    const Ended& e = ended[static_cast<std::size_t>(victim)];
    EXPECT_FALSE(e.late);
    EXPECT_EQ(e.code, 1);
    EXPECT_THAT(e.last_line(), StartsWith("rank "));
  }
}

TEST(CollectivesFault, ARankThatGivesUpIsQuoted) {
  for (const int victim : {2, 0}) {
    TcpJob job(3, 10, "fail", victim);
    const auto ended = job.wait(10);
    if (victim == 0) {
      EXPECT_EQ(ended[0].last_line(), "reports the disk is full");
      for (const int r : {1, 2})
        EXPECT_EQ(ended[static_cast<std::size_t>(r)].last_line(), "silent rank 0: the disk is full");
    } else {
      EXPECT_EQ(ended[2].last_line(), "silent the disk is full");
      expect_one_report(ended, 2, 0, "rank 2: the disk is full");
    }
    for (const Ended& e : ended) EXPECT_LT(e.seconds, 8.0);
  }
}

TEST(CollectivesFault, AnExceptionThatNobodyWasToldAboutEndsTheOthers) {
  TcpJob job(3, 10, "thrown", 1);
  const auto ended = job.wait(10);
  EXPECT_EQ(ended[1].last_line(), "error a mistake");
  expect_one_report(ended, 1, 0, StartsWith("rank 1 ended "));
}

TEST(CollectivesFault, RanksThatDoDifferentThingsAreFound) {
  TcpJob job(3, 10, "mixed", 1);
  const auto ended = job.wait(20);
  expect_one_report(ended, -1, 0, AllOf(HasSubstr("all ranks must make the same calls"), HasSubstr("bytes")));
}

TEST(CollectivesFault, ARankThatNeverComesIsNamed) {
  TcpJob job(4, 1, "few", 0, 3);
  const auto ended = job.wait(10);
  const std::string place = "(rank 0 waits at 127.0.0.1:" + std::to_string(job.port()) + ")";
  expect_one_report(ended, -1, 0, "3 of 4 ranks came within 1 s; rank 3 did not " + place);

  TcpJob headless(2, 1, "few", 0, 0);
  const auto alone = headless.wait(10);
  EXPECT_EQ(alone[0].code, 1);
  EXPECT_THAT(alone[0].last_line(), AllOf(StartsWith("error rank 0 could not be reached at 127.0.0.1:"),
                                          HasSubstr("Connection refused")));
}

TEST(CollectivesFault, ARankOfAnotherJobIsRefused) {
  const auto start = [](Processes& job, int rank, int ranks, int port) {
    job.start(TcpJob::rank_arguments("tcp", rank, ranks, std::to_string(port), 5, "few", 0));
  };
  Processes other_size;
  int port = TcpJob::free_port();
  start(other_size, 0, 2, port);
  start(other_size, 1, 3, port);
  expect_one_report(other_size.wait(10), -1, 0, StartsWith("rank 1 was started for 3 ranks, rank 0 for 2"));

  Processes twice;
  port = TcpJob::free_port();
  start(twice, 0, 3, port);
  start(twice, 1, 3, port);
  start(twice, 1, 3, port);
  expect_one_report(twice.wait(10), -1, 0, StartsWith("rank 1 came twice"));

  // Two at one port.
  Processes second;
  port = TcpJob::free_port();
  start(second, 0, 2, port);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  start(second, 0, 2, port);
  EXPECT_THAT(second.wait(10)[1].last_line(),
              AllOf(StartsWith("error rank 0 cannot wait"), HasSubstr("another port")));
}

TEST(CollectivesFault, StrangersAreIgnored) {
  const int port = TcpJob::free_port();
  Processes job;
  job.start(TcpJob::rank_arguments("tcp", 0, 2, std::to_string(port), 20, "few", 0));
  const Socket talker = connect_to("127.0.0.1", port, after(5)),
               silent = connect_to("127.0.0.1", port, after(5));
  const char request[] = "GET / HTTP/1.1\r\n\r\n";
  put(talker, request, sizeof request);
  { const Socket gone = connect_to("127.0.0.1", port, after(5)); }
  job.start(TcpJob::rank_arguments("tcp", 1, 2, std::to_string(port), 20, "few", 0));
  for (const Ended& e : job.wait(15)) EXPECT_EQ(e.last_line(), "done") << e.out;
}

}  // namespace
}  // namespace spectrain
