#include "kernels/collectives.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "kernels/ordered_sum.h"
#include "tests/kernels/rank_processes.h"

// What the ranks compute together. Each rank (tests/kernels/ranks/collectives_rank.cpp) compares every result
// with a plain loop, bit for bit, and counts the bytes. What happens when one fails:
// collectives_fault_test.cpp.

namespace spectrain {
namespace {

using ::testing::HasSubstr;

// All ended well, with the same bits.
void expect_same_results(const std::vector<Ended>& ranks) {
  std::set<std::string> sums;
  for (const Ended& e : ranks) {
    EXPECT_EQ(e.code, 0) << e.out;
    EXPECT_EQ(e.last_line(), "done");
    const std::size_t at = e.out.find("sum ");
    if (at != std::string::npos) sums.insert(e.out.substr(at + 4, 16));
  }
  EXPECT_EQ(sums.size(), 1u);
}

class CollectivesOf : public ::testing::TestWithParam<int> {};

TEST_P(CollectivesOf, TcpRanksAddInTheirOrder) {
  TcpJob job(GetParam(), 60, "collectives");
  expect_same_results(job.wait(100));
}
INSTANTIATE_TEST_SUITE_P(Ranks, CollectivesOf, ::testing::Values(1, 2, 3, 4, 8));

TEST(Collectives, GiveTheSameBitsWhoeverIsLate) {
  std::set<std::string> sums;
  TcpJob jobs[] = {{3, 60, "collectives", 0}, {3, 60, "collectives", 1}, {3, 60, "collectives", 2}};
  for (TcpJob& job : jobs) {
    for (const Ended& e : job.wait(100)) {
      EXPECT_EQ(e.code, 0) << e.out;
      sums.insert(e.out.substr(e.out.find("sum ")));
    }
  }
  EXPECT_EQ(sums.size(), 1u);
}

TEST(Collectives, OfRanksThatFinishAtOtherTimesEndWell) {
  for (const int number : {0, 1}) {
    TcpJob job(3, 20, "early", number);
    for (const Ended& e : job.wait(30)) {
      EXPECT_EQ(e.last_line(), "done");
      EXPECT_EQ(e.code, 0);
    }
  }
}

TEST(Collectives, OfOneRankCopy) {
  const auto c = make_single_collectives();
  EXPECT_EQ(c->ranks(), 1);
  std::vector<float> a{1, 2, 3}, b(3), d(3);
  const Tensor x(a.data(), DType::f32, {3}), y(b.data(), DType::f32, {3}), z(d.data(), DType::f32, {3});
  c->wait(c->reduce_scatter(x, y, "a"));
  c->wait(c->all_gather(y, z, "b"));
  c->wait(c->all_reduce(z, Reduce::max, "c"));
  c->wait(c->broadcast(z, 0, "d"));
  c->wait(c->reduce(z, z, 0, "e"));
  c->wait(c->barrier("f"));
  c->check();
  EXPECT_EQ(d, a);
  EXPECT_TRUE(c->fail("x"));
  EXPECT_EQ(c->traffic().bytes_sent, 0u);
  EXPECT_THROW(c->broadcast(z, 1, "d"), std::logic_error);
  EXPECT_THROW(c->reduce_scatter(x, Tensor(b.data(), DType::f32, {2}), "a"), std::logic_error);
  EXPECT_THROW(c->all_reduce(Tensor(nullptr, DType::f32, {2}), Reduce::sum, "a"), std::logic_error);
}

TEST(OrderedSum, OfBrainFloatsIsRoundedOnce) {
  // Rounded after each addition, 256 + 1 + 1 + 1 would stay 256: neighbours there are 2 apart.
  const bf16 large(256.0f), one(1.0f);
  bf16 sum;
  const std::byte* rows[] = {
      reinterpret_cast<const std::byte*>(&large), reinterpret_cast<const std::byte*>(&one),
      reinterpret_cast<const std::byte*>(&one), reinterpret_cast<const std::byte*>(&one)};
  combine_in_order(rows, reinterpret_cast<std::byte*>(&sum), 1, DType::bf16, Reduce::sum);
  EXPECT_EQ(static_cast<float>(sum), 260.0f);  // 259, a tie, to even
  EXPECT_THROW(combine_in_order(rows, reinterpret_cast<std::byte*>(&sum), 1, DType::bf16, Reduce::max),
               std::logic_error);
}

TEST(MpiPlugin, ThatIsMissingIsOneSentence) {
  try {
    make_mpi_collectives({}, "/nowhere/libspectrain_mpi.so");
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), HasSubstr("libspectrain_mpi.so is not beside the program"));
  }
  EXPECT_EQ(mpi_plugin_path(), std::string(SPECTRAIN_BINARY_DIR) + "/libspectrain_mpi.so");
}

}  // namespace
}  // namespace spectrain
