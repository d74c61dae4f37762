#include <gtest/gtest.h>

#include "tests/kernels/matrix_cases.h"

namespace spectrain {
namespace {

using namespace matrix_cases;

struct Setting {
  Isa isa;
  bool onednn;
  int threads;
  DType in, out;
};

std::vector<Setting> settings() {
  std::vector<Setting> all;
  for (Isa isa : instruction_sets())
    for (bool onednn : {false, true})
      for (int threads : {1, 2}) {
        // The weaker sets differ in their kernels only: one way each.
        if ((onednn || threads == 1) && isa != instruction_sets().back()) continue;
        all.push_back({isa, onednn, threads, DType::f32, DType::f32});
        all.push_back({isa, onednn, threads, DType::bf16, DType::bf16});
        all.push_back({isa, onednn, threads, DType::bf16, DType::f32});
      }
  return all;
}

std::string describe(const Setting& s) {
  return std::string(name_of(s.isa)) + (s.onednn ? ", oneDNN, " : ", own, ") + std::to_string(s.threads) +
         " threads, " + std::string(name_of(s.in)) + " -> " + std::string(name_of(s.out));
}

TEST(MatrixOptimizer, MatmulInEveryOrientation) {
  struct Size {
    std::int64_t m, n, k;
  };
  for (const Setting& s : settings()) {
    const LimitIsa limit(s.isa);
    const ForceEngine engine(s.onednn);
    auto backend = make_cpu_backend({s.threads, s.onednn});
    for (const Size& z : {Size{1, 1, 1}, {5, 7, 3}, {100, 33, 65}, {13, 200, 801}, {129, 64, 48}})
      for (bool ta : {false, true})
        for (bool tb : {false, true})
          for (float beta : {0.0f, -0.5f}) {
            SCOPED_TRACE(testing::Message() << describe(s) << ", " << z.m << " x " << z.n << " x " << z.k
                                            << ", " << ta << tb << beta);
            Operand a(ta ? z.k : z.m, ta ? z.m : z.k, s.in, 1), b(tb ? z.n : z.k, tb ? z.k : z.n, s.in, 2);
            Operand c(z.m, z.n, s.out, 3);
            const Operand before = c;
            if (beta == 0) c.set_all(std::numeric_limits<float>::quiet_NaN());
            backend->matmul(a.tensor(), ta, b.tensor(), tb, 1.5f, beta, c.tensor());
            for (std::int64_t i = 0; i < z.m; ++i)
              for (std::int64_t j = 0; j < z.n; ++j) {
                double sum = 0;
                for (std::int64_t k = 0; k < z.k; ++k)
                  sum += (ta ? a.at(k, i) : a.at(i, k)) * (tb ? b.at(j, k) : b.at(k, j));
                const double wanted = 1.5 * sum + (beta == 0 ? 0 : beta * before.at(i, j));
                ASSERT_NEAR(c.at(i, j), wanted, 1.5 * bound(wanted, z.k, s.out)) << i << ", " << j;
              }
          }
  }
}

TEST(MatrixOptimizer, SymmetricProductIsExactlySymmetric) {
  struct Size {
    std::int64_t m, k;
  };
  for (const Setting& s : settings()) {
    const LimitIsa limit(s.isa);
    const ForceEngine engine(s.onednn);
    auto backend = make_cpu_backend({s.threads, s.onednn});
    for (const Size& z : {Size{1, 1}, {7, 100}, {97, 33}, {200, 820}})
      for (int addend : {0, 1, 2}) {  // none, another matrix, c itself
        SCOPED_TRACE(testing::Message() << describe(s) << ", " << z.m << " x " << z.k << ", " << addend);
        Operand a(z.m, z.k, s.in, 1), d(z.m, z.m, s.out, 2), c(z.m, z.m, s.out, 3);
        for (std::int64_t i = 0; i < z.m; ++i)
          for (std::int64_t j = 0; j < i; ++j) d.set(j * z.m + i, static_cast<float>(d.at(i, j)));
        if (addend == 2)
          c = d;
        else
          c.set_all(std::numeric_limits<float>::quiet_NaN());
        const Tensor added = addend == 0 ? Tensor() : (addend == 1 ? d.tensor() : c.tensor());
        backend->symmetric_product(a.tensor(), 0.75f, added, -2.0f, c.tensor());
        for (std::int64_t i = 0; i < z.m; ++i)
          for (std::int64_t j = 0; j < z.m; ++j) {
            double sum = 0;
            for (std::int64_t k = 0; k < z.k; ++k) sum += a.at(i, k) * a.at(j, k);
            const double wanted = 0.75 * sum + (addend ? -2 * d.at(i, j) : 0);
            ASSERT_NEAR(c.at(i, j), wanted, bound(wanted, z.k, s.out)) << i << ", " << j;
            ASSERT_EQ(c.at(i, j), c.at(j, i)) << i << ", " << j;
          }
      }
  }
}

}  // namespace
}  // namespace spectrain
