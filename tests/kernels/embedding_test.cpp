#include <algorithm>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

constexpr DType kDTypes[] = {DType::f32, DType::bf16};

class EmbeddingTest : public KernelTest {
 protected:
  // Both gradients against float64, sums included that grow with the number of rows a token has.
  void expect_exact_gradients(const Twin& tokens, std::int64_t context, std::int64_t V, std::int64_t C,
                              DType dtype) {
    const std::int64_t R = tokens.tested.numel();
    const Twin dout = random({R, C}, dtype), dtable = random({V, C}, DType::f32);
    const Twin dpositions = random({context, C}, DType::f32);
    cpu().embedding_backward(tokens.tested, dout.tested, context, dtable.tested, dpositions.tested);
    exact().embedding_backward(tokens.exact, dout.exact, context, dtable.exact, dpositions.exact);
    std::vector<double> rows(static_cast<std::size_t>(V), 0);  // of each token
    for (std::int64_t r = 0; r < R; ++r) ++rows[static_cast<std::size_t>(tokens.exact.as<std::int32_t>()[r])];
    const double most = *std::max_element(rows.begin(), rows.end());
    const double batch = static_cast<double>((R + context - 1) / context);
    expect_close(dtable, 1, most, "dtable", 1, std::sqrt(most) + 1);
    expect_close(dpositions, 1, batch, "dpositions", 1, std::sqrt(batch) + 1);
  }
  void set_token(const Twin& tokens, std::int64_t row, std::int32_t token) {
    tokens.tested.as<std::int32_t>()[row] = tokens.exact.as<std::int32_t>()[row] = token;
  }
};

TEST_P(EmbeddingTest, AgreesWithFloat64) {
  for (const DType dtype : kDTypes)
    for (const std::int64_t batch : {1, 3, 257})
      for (const std::int64_t C : {1, 5, 7, 100, 769})
        for (const bool with_positions : {false, true}) {
          const std::int64_t context = 2, R = batch * context, V = 11;
          const Twin tokens = random_tokens({batch, context}, V), table = random({V, C}, DType::f32);
          const Twin positions = with_positions ? random({context + 1, C}, DType::f32) : Twin{};
          const Twin out = output({R, C}, dtype);
          cpu().embedding(tokens.tested, table.tested, positions.tested, context, out.tested);
          exact().embedding(tokens.exact, table.exact, positions.exact, context, out.exact);
          expect_close(out, 1, 1, "embedding");

          const Twin dout = random({R, C}, dtype), dtable = random({V, C}, DType::f32);
          const Twin dpositions = with_positions ? random({context + 1, C}, DType::f32) : Twin{};
          cpu().embedding_backward(tokens.tested, dout.tested, context, dtable.tested, dpositions.tested);
          exact().embedding_backward(tokens.exact, dout.exact, context, dtable.exact, dpositions.exact);
          const double K = static_cast<double>(R);
          expect_close(dtable, 1, K, "dtable", 1, std::sqrt(K / static_cast<double>(V)) + 1);
          if (with_positions) expect_close(dpositions, 1, K, "dpositions", 1, std::sqrt(K / 2) + 1);
        }
}

// Large and small vocabularies, one token that is everywhere, lists that end where a block's share ends.
TEST_P(EmbeddingTest, GradientsOfEveryDistributionOfTokens) {
  expect_exact_gradients(random_tokens({2500}, 300), 500, 300, 8, DType::bf16);
  expect_exact_gradients(random_tokens({1500}, 70000), 1500, 70000, 4, DType::f32);
  for (const std::int64_t R : {1, 64, 65, 128, 300, 1024, 1025}) {
    const Twin one = random_tokens({R}, 1), most = random_tokens({R}, 5);
    expect_exact_gradients(one, R, 3, 12, DType::bf16);
    for (std::int64_t r = 0; r < R; ++r)
      if (r % 7 != 3) set_token(most, r, 2);
    expect_exact_gradients(most, R, 5, 260, DType::bf16);
  }
  // Token t has t rows: borders of 64 fall everywhere.
  std::int64_t r = 0;
  const Twin stairs = random_tokens({40 * 41 / 2}, 1);
  for (std::int32_t token = 1; token <= 40; ++token)
    for (std::int32_t i = 0; i < token; ++i) set_token(stairs, (r++ * 37) % 820, token);
  expect_exact_gradients(stairs, 820, 41, 4, DType::f32);
}

// The order of the sums is the order of the tokens: one thread and two give the same bits.
TEST_P(EmbeddingTest, BackwardDoesNotDependOnThreads) {
  const std::int64_t R = 600, C = 769, V = 3;
  const Twin tokens = random_tokens({R}, V), dout = random({R, C}, DType::bf16);
  const Twin dtable = output({V, C}, DType::f32), other = output({V, C}, DType::f32);
  CpuOptions options;
  options.threads = 3 - GetParam().threads;
  const auto counterpart = on_cpu() ? make_cpu_backend(options) : tested_with_one_block();
  for (const Twin& t : {dtable, other}) cpu().fill(t.tested, 0);
  cpu().embedding_backward(tokens.tested, dout.tested, R, dtable.tested, {});
  counterpart->embedding_backward(tokens.tested, dout.tested, R, other.tested, {});
  expect_same_bits(dtable.tested, other.tested, "dtable");
}

TEST_P(EmbeddingTest, NamesATokenOutsideTheTable) {
  if (!on_cpu()) GTEST_SKIP() << "a GPU's tokens are not seen by the host";
  const Twin table = random({4, 2}, DType::f32), out = output({2, 2}, DType::f32);
  std::int32_t wild[] = {1, 4};
  const Tensor t(wild, DType::i32, {2});
  try {
    cpu().embedding(t, table.tested, {}, 2, out.tested);
    FAIL() << "a token outside the table was accepted";
  } catch (const std::logic_error& e) {
    EXPECT_NE(std::string(e.what()).find("token 4 at place 1"), std::string::npos) << e.what();
  }
  EXPECT_THROW(cpu().embedding_backward(t, out.tested, 2, table.tested, {}), std::logic_error);
}

TEST_P(EmbeddingTest, OnAGpuATokenOutsideTheTableIsNaNAndChangesNothing) {
  if (on_cpu()) GTEST_SKIP() << "the CPU refuses it";
  for (const std::int32_t wild : {4, -1, INT32_MAX, INT32_MIN}) {
    const Twin table = random({4, 3}, DType::f32), out = output({3, 3}, DType::f32);
    const Twin dout = random({3, 3}, DType::f32), dtable = random({4, 3}, DType::f32);
    std::int32_t ids[] = {1, wild, 3};
    const Tensor t(ids, DType::i32, {3});
    cpu().embedding(t, table.tested, {}, 3, out.tested);
    cpu().embedding_backward(t, dout.tested, 3, dtable.tested, {});
    for (std::int64_t c = 0; c < 3; ++c) {
      EXPECT_EQ(element(out.tested, c), element(table.tested, 3 + c));
      EXPECT_TRUE(std::isnan(element(out.tested, 3 + c)));
      EXPECT_EQ(element(dtable.tested, c), element(dtable.exact, c));
      EXPECT_EQ(element(dtable.tested, 6 + c), element(dtable.exact, 6 + c));
      for (const std::int64_t row : {1, 3}) {
        const double sum = element(dtable.exact, 3 * row + c) + element(dout.tested, row == 1 ? c : 6 + c);
        EXPECT_EQ(element(dtable.tested, 3 * row + c), static_cast<float>(sum));
      }
    }
  }
}

SPECTRAIN_KERNEL_TEST_ALL(EmbeddingTest);

}  // namespace
}  // namespace spectrain
