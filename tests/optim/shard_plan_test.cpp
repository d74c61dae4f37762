#include <gtest/gtest.h>

#include <map>
#include <random>

#include "model/transformer.h"
#include "optim/distributed_optimizer.h"
#include "tests/optim/problem.h"

namespace spectrain {
namespace {

OptimizerConfig muon_and_adamw() {
  OptimizerConfig c;
  c.groups.push_back({{Role::hidden}, MuonOptions{}});
  c.groups.push_back({{Role::embedding, Role::head, Role::gain, Role::bias, Role::scalar}, AdamWOptions{}});
  return c;
}

std::vector<const ParameterInfo*> pointers(const std::vector<ParameterInfo>& infos) {
  std::vector<const ParameterInfo*> list;
  for (const ParameterInfo& p : infos) list.push_back(&p);
  return list;
}

// Every trained element of every parameter is in exactly one piece; pieces lie inside their rank's block and
// do not overlap; matrices are whole; blocks are equal unless grouped.
void expect_exact_cover(const std::vector<ParameterInfo>& infos, const OptimizerPlan& groups,
                        const ShardPlan& plan) {
  std::vector<std::vector<int>> seen;
  for (const ParameterInfo& p : infos) seen.emplace_back(static_cast<std::size_t>(p.shape.numel()), 0);
  for (const Bucket& b : plan.buckets) {
    ASSERT_EQ(b.starts.size(), static_cast<std::size_t>(plan.ranks) + 1);
    for (int r = 1; r < plan.ranks && !b.grouped; ++r) EXPECT_EQ(b.block(r), b.block(0));
    std::int64_t end = 0;
    for (const ShardPiece& p : b.pieces) {
      EXPECT_GE(p.offset, end) << "overlap in " << b.name;
      end = p.offset + p.numel();
      EXPECT_GE(p.offset, b.starts[static_cast<std::size_t>(p.rank)]);
      EXPECT_LE(end, b.starts[static_cast<std::size_t>(p.rank) + 1]);
      EXPECT_EQ(p.offset % 64, 0);
      const MemberPlan& m = groups.groups[p.piece.group].members[p.piece.member];
      EXPECT_EQ(m.parameter, p.parameter);
      EXPECT_TRUE(!b.matrices || p.piece.shape == m.parts[p.piece.part].shape);
      for (std::int64_t i = 0; i < p.numel(); ++i)
        ++seen[p.parameter][static_cast<std::size_t>(p.element + i)];
    }
  }
  for (std::size_t i = 0; i < infos.size(); ++i)
    for (std::int64_t e = 0; e < infos[i].shape.numel(); ++e)
      ASSERT_EQ(seen[i][static_cast<std::size_t>(e)], e < infos[i].logical_numel() ? 1 : 0)
          << infos[i].name << " element " << e;
}

TEST(ShardPlan, CoversEveryElementOnceForRandomShapesAndRanks) {
  std::mt19937 random(7);
  const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  for (int round = 0; round < 200; ++round) {
    std::vector<ParameterInfo> infos;
    const int count = pick(1, 12);
    for (int i = 0; i < count; ++i) {
      ParameterInfo p;
      p.name = "p" + std::to_string(i);
      const int kind = pick(0, 3);
      const std::int64_t rows = pick(8, 60), cols = pick(8, 60);
      p.role = kind == 0 ? Role::embedding : kind == 1 ? Role::gain : Role::hidden;
      p.shape = kind == 1 ? Shape{pick(1, 200)} : Shape{rows, cols};
      p.logical_rows = kind == 1 ? p.shape[0] : rows;
      if (kind == 0) p.logical_rows = pick(1, static_cast<int>(rows));
      if (kind == 3) {
        const std::int64_t a = pick(8, 30), b = pick(8, 30), c = pick(8, 30);
        p.shape = Shape{a + b + c, cols};
        p.logical_rows = a + b + c;
        p.splits = {a, b, c};
      }
      infos.push_back(p);
    }
    const OptimizerPlan groups = plan_groups(pointers(infos), muon_and_adamw(), DType::f32);
    std::vector<DType> weights;
    for (int i = 0; i < count; ++i) weights.push_back(pick(0, 1) ? DType::f32 : DType::bf16);
    ShardOptions options;
    options.bucket_bytes = pick(1, 40000);
    for (const int ranks : {1, 2, 3, 4, 7, 8, 64}) {
      const ShardPlan plan = plan_shards(pointers(infos), groups, weights, ranks, options);
      EXPECT_EQ(plan.ranks, ranks);
      expect_exact_cover(infos, groups, plan);
      if (HasFatalFailure()) return;
    }
  }
}

Tape gpt2(int layers, int width, int heads) {
  TransformerConfig c;
  c.layers = layers;
  c.width = width;
  c.heads = heads;
  Tape tape;
  transformer(tape, c.resolved(), 1, 64);
  return tape;
}

// The table of a published layout of this kind (one greedy deal per bucket): 124M at 8 ranks pads by 1.06 and
// is even in cost; at 64 ranks padding is 1.78, where blocks of unequal length take over.
TEST(ShardPlan, OfGpt2At8RanksIsEven) {
  const Tape tape = gpt2(12, 768, 12);
  const ShardPlan plan = shard_plan_of(tape, muon_and_adamw(), DType::bf16, DType::f32, 8, 40 << 20);
  EXPECT_LE(plan.imbalance(), 1.05);
  EXPECT_LE(plan.padding(), 1.13);
  std::int64_t matrices = 0;
  for (const RankShare& s : plan.shares) matrices += s.matrices;
  EXPECT_EQ(matrices, 72) << "12 layers of q, k, v, output, up, down";
  std::size_t matrix_buckets = 0;
  for (const Bucket& b : plan.buckets) {
    EXPECT_FALSE(b.grouped);
    matrix_buckets += b.matrices;
    EXPECT_TRUE(!b.matrices || b.weights == DType::bf16);
  }
  EXPECT_GE(matrix_buckets, 3u) << "with fewer nothing is hidden behind the backward pass";
}

TEST(ShardPlan, ManyRanksAndFewMatricesAreNotPadded) {
  const Tape tape = gpt2(12, 768, 12);
  const ShardPlan plan = shard_plan_of(tape, muon_and_adamw(), DType::bf16, DType::f32, 64, 40 << 20);
  EXPECT_LE(plan.padding(), 1.3);
  bool grouped = false;
  for (const Bucket& b : plan.buckets) grouped = grouped || b.grouped;
  EXPECT_TRUE(grouped);
}

TEST(ShardPlan, LargerModelsStayEven) {
  for (const int ranks : {8, 16, 32}) {
    const Tape tape = gpt2(24, 1024, 16);
    const ShardPlan plan = shard_plan_of(tape, muon_and_adamw(), DType::bf16, DType::f32, ranks, 40 << 20);
    EXPECT_LE(plan.imbalance(), 1.1) << ranks;
    EXPECT_LE(plan.padding(), 1.3) << ranks;
  }
}

TEST(ShardPlan, IsTheSameWhoeverAsks) {
  const Tape a = gpt2(3, 64, 4), b = gpt2(3, 64, 4);
  const auto text = [](const Tape& tape) {
    return describe(shard_plan_of(tape, muon_and_adamw(), DType::f32, DType::f32, 5, 10000), DType::f32);
  };
  EXPECT_EQ(text(a), text(b));
}

TEST(ShardPlan, BucketsFollowTheBackwardPass) {
  const Tape tape = gpt2(12, 768, 12);
  const ShardPlan plan = shard_plan_of(tape, muon_and_adamw(), DType::bf16, DType::f32, 2, 40 << 20);
  ASSERT_GE(plan.buckets.size(), 3u);
  const auto earliest = [](const Bucket& b) {
    return *std::min_element(b.parameters.begin(), b.parameters.end());
  };
  for (std::size_t i = 1; i < plan.buckets.size(); ++i)
    EXPECT_GT(earliest(plan.buckets[i - 1]), earliest(plan.buckets[i]));
}

}  // namespace
}  // namespace spectrain
