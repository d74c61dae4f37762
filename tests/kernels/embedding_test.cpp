#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

constexpr DType kDTypes[] = {DType::f32, DType::bf16};

class EmbeddingTest : public KernelTest {};

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

// The order of the sums is the order of the tokens: one thread and two give the same bits.
TEST_P(EmbeddingTest, BackwardDoesNotDependOnThreads) {
  const std::int64_t R = 600, C = 769, V = 3;
  const Twin tokens = random_tokens({R}, V), dout = random({R, C}, DType::bf16);
  const Twin dtable = output({V, C}, DType::f32), other = output({V, C}, DType::f32);
  CpuOptions options;
  options.threads = 3 - GetParam().threads;
  const auto counterpart = make_cpu_backend(options);
  for (const Twin& t : {dtable, other}) cpu().fill(t.tested, 0);
  cpu().embedding_backward(tokens.tested, dout.tested, R, dtable.tested, {});
  counterpart->embedding_backward(tokens.tested, dout.tested, R, other.tested, {});
  expect_same_bits(dtable.tested, other.tested, "dtable");
}

TEST_P(EmbeddingTest, NamesATokenOutsideTheTable) {
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

SPECTRAIN_KERNEL_TEST(EmbeddingTest);

}  // namespace
}  // namespace spectrain
