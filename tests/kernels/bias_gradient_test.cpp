#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

class BiasGradientTest : public KernelTest {};

// Widths that are a part of a block's strip, exactly one and more, in packs and not; few rows and many.
TEST_P(BiasGradientTest, AgreesWithFloat64) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const std::int64_t R : {1, 7, 64, 65, 300, 17000})
      for (const std::int64_t N : {1, 5, 33, 128, 264, 769}) {
        if (R * N > 3000000) continue;
        const Twin dy = random({R, N}, dtype), db = output({N}, DType::f32);
        const double K = static_cast<double>(R);
        cpu().bias_gradient(dy.tested, db.tested, false);
        exact().bias_gradient(dy.exact, db.exact, false);
        expect_close(db, 1, K, "db", 1, std::sqrt(K));
        widen(db);
        cpu().bias_gradient(dy.tested, db.tested, true);
        exact().bias_gradient(dy.exact, db.exact, true);
        expect_close(db, 1, K, "db added to", 1, 2 * std::sqrt(K));
      }
}

TEST_P(BiasGradientTest, FewBlocksEqualManyBitForBit) {
  if (on_cpu()) GTEST_SKIP() << "a processor has no blocks";
  const auto one = tested_with_one_block();
  for (const std::int64_t N : {520, 77}) {
    const Twin dy = random({700, N}, DType::bf16);
    const Twin a = output({N}, DType::f32), b = output({N}, DType::f32);
    cpu().bias_gradient(dy.tested, a.tested, false);
    one->bias_gradient(dy.tested, b.tested, false);
    expect_same_bits(a.tested, b.tested, "db");
  }
}

SPECTRAIN_KERNEL_TEST_ALL(BiasGradientTest);

}  // namespace
}  // namespace spectrain
