#include <gtest/gtest.h>

#include "tests/kernels/matrix_cases.h"

namespace spectrain {
namespace {

using namespace matrix_cases;

class MatrixOptimizer : public MatrixTest {};

struct Size {
  std::int64_t m, n, k;
};

TEST_P(MatrixOptimizer, MatmulInEveryOrientation) {
  for (const Size& z :
       {Size{1, 1, 1}, {5, 7, 3}, {100, 33, 65}, {13, 200, 801}, {129, 64, 48}, {67, 129, 35}})
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (float beta : {0.0f, -0.5f}) {
          SCOPED_TRACE(testing::Message() << z.m << " x " << z.n << " x " << z.k << ", " << ta << tb << beta);
          Operand a(ta ? z.k : z.m, ta ? z.m : z.k, compute(), 1),
              b(tb ? z.n : z.k, tb ? z.k : z.n, compute(), 2);
          Operand c(z.m, z.n, out(), 3);
          const Operand before = c;
          if (beta == 0) c.set_all(std::numeric_limits<float>::quiet_NaN());
          backend_->matmul(a.tensor(), ta, b.tensor(), tb, 1.5f, beta, c.tensor());
          for (std::int64_t i = 0; i < z.m; ++i)
            for (std::int64_t j = 0; j < z.n; ++j) {
              double sum = 0;
              for (std::int64_t k = 0; k < z.k; ++k)
                sum += (ta ? a.at(k, i) : a.at(i, k)) * (tb ? b.at(j, k) : b.at(k, j));
              const double wanted = 1.5 * sum + (beta == 0 ? 0 : beta * before.at(i, j));
              ASSERT_NEAR(c.at(i, j), wanted, 1.5 * bound(wanted, z.k, out())) << i << ", " << j;
            }
        }
}

TEST_P(MatrixOptimizer, MatmulOfABatchIsOneForEach) {
  for (const Size& z : {Size{5, 7, 3}, {33, 18, 20}, {65, 67, 17}})
    for (bool ta : {false, true})
      for (bool tb : {false, true}) {
        SCOPED_TRACE(testing::Message() << z.m << " x " << z.n << " x " << z.k << ", " << ta << tb);
        constexpr std::int64_t kBatch = 3;
        Operand a(kBatch * z.m, z.k, compute(), 1), b(kBatch * z.k, z.n, compute(), 2),
            c(kBatch * z.m, z.n, out(), 3), alone = c;
        const Tensor as = a.tensor().reshaped(ta ? Shape{kBatch, z.k, z.m} : Shape{kBatch, z.m, z.k});
        const Tensor bs = b.tensor().reshaped(tb ? Shape{kBatch, z.n, z.k} : Shape{kBatch, z.k, z.n});
        const Tensor cs = c.tensor().reshaped({kBatch, z.m, z.n});
        const Tensor ds = alone.tensor().reshaped({kBatch, z.m, z.n});
        backend_->matmul(as, ta, bs, tb, -0.75f, 2.0f, cs);
        for (std::int64_t i = 0; i < kBatch; ++i)
          backend_->matmul(as.matrix(i), ta, bs.matrix(i), tb, -0.75f, 2.0f, ds.matrix(i));
        for (std::int64_t i = 0; i < kBatch * z.m * z.n; ++i)
          ASSERT_NEAR(c.get(i), alone.get(i), 2 * bound(alone.get(i), z.k, out())) << i;
      }
}

INSTANTIATE_TEST_SUITE_P(All, MatrixOptimizer, testing::ValuesIn(cpu_settings()), setting_name);
INSTANTIATE_TEST_SUITE_P(Cuda, MatrixOptimizer, testing::ValuesIn(cuda_settings(true)), setting_name);

// On a GPU: symmetric_product_test.cpp.
class SymmetricProductOfTheCpu : public MatrixTest {};

TEST_P(SymmetricProductOfTheCpu, IsExactlySymmetric) {
  for (const auto& [m, k] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {7, 100}, {97, 33}, {200, 820}})
    for (int addend : {0, 1, 2}) {  // none, another matrix, c itself
      SCOPED_TRACE(testing::Message() << m << " x " << k << ", " << addend);
      Operand a(m, k, compute(), 1), d(m, m, out(), 2), c(m, m, out(), 3);
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < i; ++j) d.set(j * m + i, static_cast<float>(d.at(i, j)));
      if (addend == 2)
        c = d;
      else
        c.set_all(std::numeric_limits<float>::quiet_NaN());
      const Tensor added = addend == 0 ? Tensor() : (addend == 1 ? d.tensor() : c.tensor());
      backend_->symmetric_product(a.tensor(), 0.75f, added, -2.0f, c.tensor());
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < m; ++j) {
          double sum = 0;
          for (std::int64_t q = 0; q < k; ++q) sum += a.at(i, q) * a.at(j, q);
          const double wanted = 0.75 * sum + (addend ? -2 * d.at(i, j) : 0);
          ASSERT_NEAR(c.at(i, j), wanted, bound(wanted, k, out())) << i << ", " << j;
          ASSERT_EQ(c.at(i, j), c.at(j, i)) << i << ", " << j;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(All, SymmetricProductOfTheCpu, testing::ValuesIn(cpu_settings()), setting_name);

}  // namespace
}  // namespace spectrain
