#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "model/plan.h"
#include "tests/cuda_emulator/cublaslt_emulated.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/model/model_run.h"

// Whole training passes with a head of eight-bit floats on the CUDA backend, which multiplies the eight bits:
// on the emulated GPU, where the library tells what it was asked for.

namespace spectrain::test {
namespace {

constexpr std::int64_t kContext = 32, kBatch = 3, kRows = kBatch * kContext, kVocab = 45, kPadded = 48,
                       kWidth = 64;

TransformerConfig small(std::int64_t context = kContext) {
  TransformerConfig c;
  c.vocab = kVocab;
  c.padded_vocab = kPadded;
  c.context = context;
  c.layers = 1;
  c.width = kWidth;
  c.heads = 1;
  c.mlp_width = 64;
  c.tied = false;
  c.head_fp8 = {4, 16, 1024};
  return c;
}

ProgramOptions options(std::size_t rows_at_once = 1024) {
  ProgramOptions o;
  o.compute = DType::bf16;
  o.logits_budget = rows_at_once * (kPadded * 4 + kWidth * 2);
  return o;
}

class Fp8HeadCuda : public testing::Test {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "one thread with many stacks is not understood by this sanitizer";
#endif
    emulator::set_order(emulator::Order::ascending);
  }
  void TearDown() override { emulator::refuse_eight_bits(false); }

  static void prepare(ModelRun& model, std::int64_t rows = kRows) {
    model.set_golden_weights();
    model.set_batch(some_tokens(rows, kVocab, 1), some_tokens(rows, kVocab, 2));
  }
  // With a scale that is a power of two rounded gradients are exact in bf16.
  static Gradients pass(ModelRun& model) { return model.gradients(1.0 / 128, false); }
  static void expect_same(const Gradients& a, const Gradients& b) {
    EXPECT_EQ(a.losses, b.losses);
    for (const auto& [name, gradient] : a.of) EXPECT_EQ(gradient, b.of.at(name)) << name;
  }
  static double mean(const std::vector<double>& x) {
    return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
  }
};

// Whole passes whose sums are rounded to bf16 in other places: where a number of x or a gradient is then
// rounded to the next number of three or two bits of mantissa, a row's loss moves by some hundredths.
TEST_F(Fp8HeadCuda, FollowsTheRoundedPassOfTheCpu) {
  const auto cpu = make_cpu_backend({2, true}), cuda = make_emulated_cuda_backend();
  ModelRun wanted(*cpu, small(), kBatch, kContext, options()),
      got(*cuda, small(), kBatch, kContext, options());
  prepare(wanted);
  prepare(got);
  const auto before = emulator::cublaslt_counts();
  const Gradients a = pass(got), b = pass(wanted);
  EXPECT_EQ(emulator::cublaslt_counts().eight_bit - before.eight_bit, 3);
  EXPECT_EQ(emulator::cublaslt_counts().fast_sums - before.fast_sums, 1);
  EXPECT_NEAR(mean(a.losses), mean(b.losses), 0.01);
  for (const auto& [name, gradient] : a.of)
    if (largest(b.of.at(name)) > 0) {
      EXPECT_GT(cosine(gradient, b.of.at(name)), 0.999) << name;
    }
  EXPECT_TRUE(cuda->notes().empty());
}

// A library that refuses leaves the rounded numbers to be multiplied in bf16, which gives the same bits:
// scales are powers of two, and the emulated library adds in the same order.
TEST_F(Fp8HeadCuda, EightBitsGiveWhatRoundedNumbersGive) {
  const auto cuda = make_emulated_cuda_backend(), other = make_emulated_cuda_backend();
  ModelRun eight(*cuda, small(), kBatch, kContext, options()),
      rounded(*other, small(), kBatch, kContext, options());
  prepare(eight);
  prepare(rounded);
  const Gradients wanted = pass(eight);
  emulator::refuse_eight_bits(true);
  const auto before = emulator::cublaslt_counts().eight_bit;
  for (int time = 0; time < 3; ++time) expect_same(pass(rounded), wanted);  // eager, recorded, replayed
  EXPECT_EQ(emulator::cublaslt_counts().eight_bit, before);
  EXPECT_EQ(other->notes().size(), 3u);
}

TEST_F(Fp8HeadCuda, AnOlderDeviceRounds) {
  CudaOptions ampere;
  ampere.most_capability = 80;
  const auto old = make_emulated_cuda_backend(ampere), cuda = make_emulated_cuda_backend();
  ModelRun got(*old, small(), kBatch, kContext, options()),
      wanted(*cuda, small(), kBatch, kContext, options());
  prepare(got);
  prepare(wanted);
  const auto before = emulator::cublaslt_counts().eight_bit;
  const double loss = mean(pass(got).losses);
  EXPECT_EQ(emulator::cublaslt_counts().eight_bit, before);
  EXPECT_NEAR(loss, mean(pass(wanted).losses), 0.01);  // its attention is another
  EXPECT_TRUE(old->notes().empty());
}

TEST_F(Fp8HeadCuda, ReplayedEqualsEagerAndAllocatesNothing) {
  const auto cuda = make_emulated_cuda_backend(), other = make_emulated_cuda_backend();
  ModelRun recorded(*cuda, small(), kBatch, kContext, options(32)),
      eager(*other, small(), kBatch, kContext, options(32));
  prepare(recorded);
  prepare(eager);
  eager.program().set_hooks({[](std::size_t) {}, {}});
  for (int time = 0; time < 3; ++time) {
    const emulator::Counts before = emulator::counts();
    const Gradients replayed = pass(recorded);
    const emulator::Counts after = emulator::counts();
    EXPECT_EQ(after.graph_launches - before.graph_launches, time > 0 ? 1 : 0);
    if (time > 0) {
      EXPECT_EQ(after.allocations, before.allocations);
    }
    expect_same(replayed, pass(eager));
    // As after a step of the optimizer: both copies of the head are made again.
    for (ModelRun* m : {&recorded, &eager}) {
      Parameters& p = m->parameters();
      const Tensor head = p.view(static_cast<std::size_t>(p.find("head"))).value;
      p.backend().scale(head, 0.75, head);
      p.refresh();
    }
  }
}

// 96 rows, 40 of which fit: chunks of 32, for sums over rows go in steps of 16.
TEST_F(Fp8HeadCuda, ChunksAreWholeMultiples) {
  const auto cuda = make_emulated_cuda_backend();
  ModelRun whole(*cuda, small(), kBatch, kContext, options()),
      parts(*cuda, small(), kBatch, kContext, options(40));
  prepare(whole);
  prepare(parts);
  const Gradients wanted = pass(whole);
  const auto before = emulator::cublaslt_counts();
  const Gradients got = pass(parts);
  EXPECT_EQ(emulator::cublaslt_counts().eight_bit - before.eight_bit, 9);
  EXPECT_EQ(got.losses, wanted.losses);
  for (const auto& [name, gradient] : wanted.of) {
    if (name != "head") {
      EXPECT_EQ(got.of.at(name), gradient) << name;
      continue;
    }
    // Sums in another order.
    EXPECT_LE(relative_error(got.of.at(name), gradient), 4 * 0x1p-24 * std::sqrt(kRows));
  }
  EXPECT_TRUE(cuda->notes().empty());
}

// 72 rows: the last chunk has 8 and is multiplied in bf16.
TEST_F(Fp8HeadCuda, WhatIsLeftIsMultipliedInBf16) {
  constexpr std::int64_t kOdd = 24, kOddRows = kBatch * kOdd;
  const auto cuda = make_emulated_cuda_backend(), other = make_emulated_cuda_backend();
  ModelRun mixed(*cuda, small(kOdd), kBatch, kOdd, options(16)),
      rounded(*other, small(kOdd), kBatch, kOdd, options(16));
  prepare(mixed, kOddRows);
  prepare(rounded, kOddRows);
  const auto before = emulator::cublaslt_counts().eight_bit;
  const Gradients first = pass(mixed);
  EXPECT_EQ(emulator::cublaslt_counts().eight_bit - before, 4 * 3);
  expect_same(pass(mixed), first);  // recorded, with what is decoded on the way
  EXPECT_EQ(cuda->notes().size(), 3u);
  emulator::refuse_eight_bits(true);
  expect_same(pass(rounded), first);
}

TEST_F(Fp8HeadCuda, PlannedMemoryIsWhatIsAllocated) {
  CudaOptions ampere;
  ampere.most_capability = 80;
  for (const CudaOptions& device : {CudaOptions{}, ampere})
    for (const DType compute : {DType::bf16, DType::f32}) {
      const auto cuda = make_emulated_cuda_backend(device);
      Tape tape;
      const Value losses = transformer(tape, small().resolved(), kBatch, kContext);
      ProgramOptions o = options(32);
      o.compute = compute;
      const std::size_t before = cuda->allocated_bytes();
      const MemoryPlan plan = plan_memory(tape, *cuda, o);
      Parameters parameters(tape, *cuda, compute, true);
      Program program(tape, losses, parameters, o);
      EXPECT_EQ(cuda->allocated_bytes() - before, plan.total() - cuda->working_bytes());
    }
}

TEST(Fp8HeadPlan, EncodedGradientsHaveRoom) {
  Tape tape;
  const Value losses = transformer(tape, small().resolved(), kBatch, kContext);
  ProgramOptions o = options(40);
  const auto workspace = [&](DType logits) {
    return make_plan(tape, losses, DType::f32, logits, o).workspace_bytes;
  };
  EXPECT_EQ(workspace(DType::bf16), 32u * (kPadded * (2 + 2) + kWidth * 2));
  o.logits_budget = 200 * (kPadded * 4 + kWidth * 2);
  EXPECT_EQ(workspace(DType::bf16), std::size_t{kRows} * (kPadded * (2 + 2) + kWidth * 2));
  // Where gradients are not in the place of the logits, that is free for what is made of them.
  EXPECT_EQ(workspace(DType::f32), std::size_t{kRows} * (kPadded * (4 + 2) + kWidth * 2));
  o.training = false;
  EXPECT_EQ(workspace(DType::bf16), std::size_t{kRows} * kPadded * 2);
}

}  // namespace
}  // namespace spectrain::test
