#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "optim/newton_schulz.h"
#include "tests/optim/problem.h"

// The tables of coefficients: where each takes a singular value, in float64, and that the iterations with
// those that skip something (no square of the Gram matrix, no Frobenius norm) are what they say.

namespace spectrain {
namespace {

using enum NewtonSchulzTable;

double scalar(const NewtonSchulzOptions& options, double s) {
  double x = s / scheme(options.coefficients).safety;
  for (const Quintic& q : quintics(options)) {
    const double a = double{q.a}, b = double{q.b}, c = double{q.c};
    x = a * x + b * x * x * x + c * x * x * x * x * x;
  }
  return x;
}

struct Band {
  double low, high;
};
Band band(const NewtonSchulzOptions& options, double from) {
  constexpr int kPoints = 20000;
  Band b{1e9, -1e9};
  for (int i = 0; i <= kPoints; ++i)
    for (const double s :
         {from + (1 - from) * i / kPoints, std::pow(from, 1 - static_cast<double>(i) / kPoints)}) {
      const double y = scalar(options, s);
      b = {std::min(b.low, y), std::max(b.high, y)};
    }
  return b;
}

// Recomputed for each table from its published coefficients, by another program, to the digits given.
TEST(NewtonSchulzTables, BandsOfSingularValues) {
  const struct {
    NewtonSchulzTable table;
    int steps;
    double slope;          // at 0
    Band hundredth;        // of s in [1e-2, 1]
    Band thousandth;       // of s in [1e-3, 1]
    double digit = 0.001;  // the last that was given
  } rows[] = {
      {keller, 5, 485, {0.682, 1.134}, {0.471, 1.202}},
      {keller, 10, 2.4e5, {0.682, 1.134}, {0.682, 1.134}},
      {you, 5, 493, {0.978, 1.032}, {0.475, 1.145}},
      {polar_express, 5, 970, {0.859, 1.141}, {0.847, 1.141}},
      {polar_express_101, 5, 967, {0.870, 1.124}, {0.840, 1.124}},
      {polar_express_101, 6, 1810, {0.9974, 1.0012}, {0.9935, 1.0012}, 1e-4},
      {polar_express_101, 8, 6300, {1, 1}, {1, 1}, 1e-4},
      {polar_express_105, 5, 804, {0.846, 1.124}, {0.729, 1.124}},
      {cans, 5, 1049, {0.884, 1.120}, {0.884, 1.120}},
      {cubic5, 5, 119, {0.774, 1.300}, {0.119, 1.300}},
      {exact, 5, 32, {0.312, 1.002}, {0.032, 1.002}},
      {exact, 12, 4096, {1, 1}, {1, 1}, 1e-4},
      {pade, 12, 1888, {1, 1}, {0.981, 1}},
      {cubic, 5, 7.6, {0.076, 1}, {0.008, 1}},
      {cubic, 15, 438, {1, 1}, {0.417, 1}},
      {cubic, 30, 1.9e5, {1, 1}, {1, 1}, 1e-4},
      {deepseek_v4, 10, 7.9e4, {1, 1.0005}, {1, 1.0005}, 1e-4},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(scheme(row.table).name);
    const NewtonSchulzOptions o{row.table, row.steps};
    EXPECT_NEAR(scalar(o, 1e-9) / 1e-9 / row.slope, 1, 0.03);
    for (const auto& [from, expected] : {std::pair{1e-2, row.hundredth}, {1e-3, row.thousandth}}) {
      const Band found = band(o, from);
      EXPECT_NEAR(found.low, expected.low, 0.6 * row.digit) << from;
      EXPECT_NEAR(found.high, expected.high, 0.6 * row.digit) << from;
    }
  }
}

TEST(NewtonSchulzTables, OwnCountsOfSteps) {
  const struct {
    NewtonSchulzTable table;
    std::size_t steps;
  } rows[] = {{polar_express_101, 5}, {cans, 5}, {cubic5, 5}, {cubic, 15}, {pade, 12},
              {deepseek_v4, 10},      {aol, 4}};
  for (const auto& row : rows) EXPECT_EQ(quintics({row.table, 0}).size(), row.steps);
}

class NewtonSchulzTablesTest : public testing::TestWithParam<const char*> {
 protected:
  std::unique_ptr<Backend> backend = backend_named(GetParam());

  Matrix orthogonalized(const NewtonSchulzOptions& options, const Matrix& m) {
    const Shape shape{m.rows, m.cols};
    NewtonSchulz stage(options);
    const std::size_t before = backend->allocated_bytes();
    stage.prepare(*backend, std::vector<Shape>{shape});
    EXPECT_EQ(backend->allocated_bytes() - before,
              stage.workspace_bytes(std::vector<Shape>{shape}, *backend));
    const auto buffer =
        backend->allocate(static_cast<std::size_t>(shape.numel()) * size_of(backend->master()), "u");
    const Tensor u = buffer->view(backend->master(), shape);
    write(*backend, u, m.a);
    return {m.rows, m.cols, host(*backend, stage.orthogonalize(u))};
  }
};
INSTANTIATE_TEST_SUITE_P(Backends, NewtonSchulzTablesTest, testing::Values("reference", "cpu", "cuda"));

std::vector<double> spectrum(std::int64_t n) {
  std::vector<double> s;
  for (std::int64_t i = 0; i < n; ++i) s.push_back(1 - 0.9 * static_cast<double>(i) / static_cast<double>(n));
  return s;
}

TEST_P(NewtonSchulzTablesTest, IterationsEqualTheirPolynomials) {
  for (const auto& [rows, cols] : {std::pair{24, 40}, {40, 24}, {32, 32}}) {
    const Factored f = with_spectrum(rows, cols, spectrum(std::min(rows, cols)), 17);
    const Matrix m = f.compose(f.s);
    for (const NewtonSchulzTable t : {polar_express_101, cans, cubic5, cubic, pade, deepseek_v4})
      for (const NewtonSchulzForm form : {NewtonSchulzForm::standard, NewtonSchulzForm::gram}) {
        NewtonSchulzOptions o{t};
        o.form = form;
        std::vector<double> values;
        for (const double s : f.s) values.push_back(scalar(o, s / frobenius(m)));
        // As in newton_schulz_test.cpp.
        const double most = backend->master() == DType::f64                  ? 1e-11
                            : form == NewtonSchulzForm::gram && rows != cols ? 3e-4
                                                                             : 1e-5;
        EXPECT_LT(relative_difference(orthogonalized(o, m), f.compose(values)), most)
            << scheme(t).name << " " << rows << "x" << cols;
      }
  }
}

// diag(s) M and four steps, written down plainly; of a tall matrix the same of its transpose.
Matrix plain_aol(const Matrix& m) {
  if (m.rows > m.cols) return transposed(plain_aol(transposed(m)));
  const Matrix square = product(m, transposed(m));
  Matrix x = m;
  for (std::int64_t i = 0; i < m.rows; ++i) {
    double sum = 0;
    for (std::int64_t j = 0; j < m.rows; ++j) sum += std::abs(square(i, j));
    for (std::int64_t j = 0; j < m.cols; ++j) x(i, j) *= sum > 0 ? 1 / std::sqrt(sum) : 0;
  }
  for (const Quintic& q : quintics({aol})) {
    const Matrix gram = product(x, transposed(x));
    x = combined(double{q.a}, x, 1,
                 product(combined(double{q.b}, gram, double{q.c}, product(gram, gram)), x));
  }
  return x;
}

TEST_P(NewtonSchulzTablesTest, AolScalesRowsInPlaceOfTheNorm) {
  const double most = backend->master() == DType::f64 ? 1e-12 : 1e-5;
  for (const auto& [rows, cols] : {std::pair{24, 64}, {64, 24}, {32, 32}}) {
    Matrix m = gaussian(rows, cols, 3);
    for (std::int64_t j = 0; j < cols; ++j) m(5, j) = 0;  // a neuron without a gradient
    const Matrix expected = plain_aol(m);
    EXPECT_LT(relative_difference(orthogonalized({aol}, m), expected), most) << rows << "x" << cols;
    NewtonSchulzOptions in_gram_form{aol};
    in_gram_form.form = NewtonSchulzForm::gram;
    EXPECT_LT(relative_difference(orthogonalized(in_gram_form, m), expected),
              backend->master() == DType::f64 ? 1e-10 : 3e-4);
    EXPECT_LT(relative_difference(orthogonalized({aol}, combined(0x1p-40, m, 0, m)), expected), most);
    for (const double x : orthogonalized({aol}, Matrix(rows, cols)).a) EXPECT_EQ(x, 0);
  }
}

// What the header warns of: the published first step is negative at 1.
TEST(NewtonSchulzTables, AolTurnsTheSignOfValuesNearOne) {
  double low = 2, high = -2;
  for (int i = 0; i <= 8600; ++i) {
    const double y = scalar({aol}, 0.01 + 1e-4 * i);
    low = std::min(low, y), high = std::max(high, y);
  }
  EXPECT_NEAR(low, 0.866, 6e-4);
  EXPECT_NEAR(high, 1.0844, 6e-5);
  for (int i = 0; i <= 1000; ++i) EXPECT_LT(scalar({aol}, 0.9 + 1e-4 * i), -0.98);
}

TEST(NewtonSchulzTables, CubicStepsCostNoSquare) {
  EXPECT_EQ(NewtonSchulz({cubic, 10}).flops({100, 400}), 10 * 3 * 4 * 1e6);
  EXPECT_EQ(NewtonSchulz({exact, 10}).flops({100, 400}), 10 * (3 * 4 + 1) * 1e6);
}

}  // namespace
}  // namespace spectrain
