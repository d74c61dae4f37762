#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::bf16};
constexpr std::int64_t kSizes[] = {1, 5, 7, 100, 769, 16384, 16385, 300001};

class ReductionTest : public KernelTest {
 protected:
  static std::unique_ptr<Backend> plain_cpu() {
    limit_cpu_isa(Isa::baseline);
    CpuOptions one;
    one.threads = 1;
    return make_cpu_backend(one);
  }
};

TEST_P(ReductionTest, AgreesWithFloat64) {
  for (const DType dtype : kDTypes)
    for (const std::int64_t n : kSizes) {
      const Twin x = random({n}, dtype, 1, 0.1);
      const double root = std::sqrt(static_cast<double>(n));
      EXPECT_NEAR(cpu().sum(x.tested), exact().sum(x.exact), 4 * 0x1p-52 * root * (root + 0.1 * root * root))
          << n;
      const double squares = exact().sum_of_squares(x.exact);
      EXPECT_NEAR(cpu().sum_of_squares(x.tested), squares, 4 * 0x1p-52 * root * squares) << n;
      EXPECT_TRUE(cpu().all_finite(x.tested));
    }
}

TEST_P(ReductionTest, TheSameBitsForAnyThreadsAndInstructionSet) {
  const Twin x = random({300001}, DType::f32), half = random({300001}, DType::bf16);
  const double sum = cpu().sum(x.tested), squares = cpu().sum_of_squares(x.tested);
  const double half_sum = cpu().sum(half.tested), half_squares = cpu().sum_of_squares(half.tested);
  // On a GPU: for any number of blocks.
  const auto plain = on_cpu() ? plain_cpu() : tested_with_one_block();
  if (!plain) return;
  EXPECT_EQ(plain->sum(x.tested), sum);
  EXPECT_EQ(plain->sum_of_squares(x.tested), squares);
  EXPECT_EQ(plain->sum(half.tested), half_sum);
  EXPECT_EQ(plain->sum_of_squares(half.tested), half_squares);
}

TEST_P(ReductionTest, FindsOneBadElementAnywhere) {
  for (const DType dtype : kDTypes)
    for (const std::int64_t n : {1, 7, 769, 70001})
      for (const std::int64_t where : {std::int64_t{0}, n / 2, n - 1})
        for (const double bad :
             {static_cast<double>(INFINITY), -static_cast<double>(INFINITY), static_cast<double>(NAN)}) {
          const Twin x = space({n}, dtype);
          cpu().fill(x.tested, dtype == DType::bf16 ? 3.3e38 : 3.4e38);  // the largest are finite still
          EXPECT_TRUE(cpu().all_finite(x.tested));
          cpu().fill(x.tested.reshaped({n, 1}).slice_rows(where, 1), bad);
          EXPECT_FALSE(cpu().all_finite(x.tested)) << name_of(dtype) << " " << n << " " << where;
          EXPECT_FALSE(std::isfinite(cpu().sum_of_squares(x.tested)));
        }
}

TEST_P(ReductionTest, LargeSquaresDoNotOverflow) {
  const Twin x = space({100}, DType::f32);
  cpu().fill(x.tested, 1e30);
  EXPECT_NEAR(cpu().sum_of_squares(x.tested) / 1e62, 1, 1e-6);
}

SPECTRAIN_KERNEL_TEST_ALL(ReductionTest);

}  // namespace
}  // namespace spectrain
