#include "optim/newton_schulz.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/optim/problem.h"

namespace spectrain {
namespace {

const NewtonSchulzTable kTables[] = {NewtonSchulzTable::keller, NewtonSchulzTable::polar_express,
                                     NewtonSchulzTable::you, NewtonSchulzTable::exact,
                                     NewtonSchulzTable::polar_express_105};

Matrix orthogonalized(Backend& backend, const NewtonSchulzOptions& options, const Matrix& m) {
  const Shape shape{m.rows, m.cols};
  NewtonSchulz stage(options);
  stage.prepare(backend, std::vector<Shape>{shape});
  const auto buffer =
      backend.allocate(static_cast<std::size_t>(shape.numel()) * size_of(backend.master()), "u");
  const Tensor u = buffer->view(backend.master(), shape);
  write(backend, u, m.a);
  const Tensor x = stage.orthogonalize(u);
  EXPECT_EQ(x.shape, shape);
  return {m.rows, m.cols, host(backend, x)};
}

// What the polynomials make of a singular value s of a matrix of norm 1, in float64.
double scalar(const NewtonSchulzOptions& options, double s) {
  double x = s / scheme(options.coefficients).safety;
  for (const Quintic& q : quintics(options)) {
    const double a = double{q.a}, b = double{q.b}, c = double{q.c};
    x = a * x + b * x * x * x + c * x * x * x * x * x;
  }
  return x;
}

// The exact result on a matrix with known factors.
Matrix expected(const NewtonSchulzOptions& options, const Factored& f) {
  double squares = 0;
  for (const double s : f.s) squares += s * s;
  std::vector<double> values;
  for (const double s : f.s) values.push_back(scalar(options, s / std::sqrt(squares)));
  return f.compose(values);
}

std::vector<double> linear_spectrum(std::int64_t n, double last) {
  std::vector<double> s;
  for (std::int64_t i = 0; i < n; ++i)
    s.push_back(1 + (last - 1) * static_cast<double>(i) / static_cast<double>(n - 1));
  return s;
}

std::vector<double> power_spectrum(std::int64_t n, double exponent) {
  std::vector<double> s;
  for (std::int64_t i = 1; i <= n; ++i) s.push_back(std::pow(static_cast<double>(i), -exponent));
  return s;
}

struct Case {
  const char* backend;
  DType precision;
  NewtonSchulzForm form = NewtonSchulzForm::standard;
};
std::string case_name(const testing::TestParamInfo<Case>& info) {
  return std::string(info.param.backend) + "_" + std::string(name_of(info.param.precision)) +
         (info.param.form == NewtonSchulzForm::gram ? "_gram" : "");
}

class NewtonSchulzTest : public testing::TestWithParam<Case> {
 protected:
  std::unique_ptr<Backend> backend = backend_named(GetParam().backend);
  DType precision = GetParam().precision;
  bool gram = GetParam().form == NewtonSchulzForm::gram;
  bool rounded() const { return precision != DType::f32; }
  NewtonSchulzOptions options(NewtonSchulzTable t, int steps = 0) const {
    return {t, steps, precision, GetParam().form};
  }
  // The reference's plain loops and the emulated GPU get smaller matrices.
  std::int64_t size(std::int64_t n) const { return backend->name() == "cpu" ? n : n / 4; }
  // Of the relative distance from the polynomials in float64: twice the worst that was seen where each
  // arithmetic was emulated, on well-conditioned matrices and on spectra 1 / i, whose small values are lifted
  // most.
  double limit(NewtonSchulzTable t, bool power_law, bool square) const {
    const bool in_gram_form = gram && !square;
    if (backend->master() == DType::f64) return gram ? 1e-10 : 1e-11;
    if (precision == DType::f32) return in_gram_form ? 3e-4 : 1e-5;
    const bool half = precision == DType::f16;
    // Between steps these coefficients leave values near 2, where the polynomial is a small difference.
    if (in_gram_form && t == NewtonSchulzTable::polar_express && !power_law) return half ? 0.0072 : 0.10;
    if (!half) return power_law ? 0.10 : 0.03;
    if (in_gram_form) return power_law ? 0.03 : 0.004;
    // The exact table's twelve steps lift small values by 4096, the others by 970 at most.
    return (power_law ? 0.012 : 0.003) * (t == NewtonSchulzTable::exact ? 4 : 1);
  }
};

INSTANTIATE_TEST_SUITE_P(Backends, NewtonSchulzTest,
                         testing::Values(Case{"reference", DType::f32}, Case{"cpu", DType::f32},
                                         Case{"cpu", DType::bf16},
                                         Case{"reference", DType::f32, NewtonSchulzForm::gram},
                                         Case{"cpu", DType::f32, NewtonSchulzForm::gram},
                                         Case{"cpu", DType::bf16, NewtonSchulzForm::gram},
                                         Case{"cuda", DType::f32}, Case{"cuda", DType::bf16},
                                         Case{"cuda", DType::f16},
                                         Case{"cuda", DType::bf16, NewtonSchulzForm::gram},
                                         Case{"cuda", DType::f16, NewtonSchulzForm::gram}),
                         case_name);

// The iteration in each precision against the same polynomial applied to the exact singular values in
// float64.
TEST_P(NewtonSchulzTest, EqualsItsPolynomialOnTheSingularValues) {
  const std::int64_t n = size(192);
  struct {
    const char* name;
    std::int64_t rows, cols;
    std::vector<double> spectrum;
    bool power_law;
  } const cases[] = {{"gaussian wide", n, 4 * n, linear_spectrum(n, 0.34), false},
                     {"gaussian tall", 4 * n, n, linear_spectrum(n, 0.34), false},
                     {"gaussian square", n, n, linear_spectrum(n, 1e-5), false},
                     {"power law square", n, n, power_spectrum(n, 1), true},
                     {"power law wide", n, 2 * n, power_spectrum(n, 1), true},
                     {"odd sizes", n + 5, n - 3, power_spectrum(n - 3, 1), true}};
  for (const auto& c : cases) {
    const Factored f = with_spectrum(c.rows, c.cols, c.spectrum, 17);
    const Matrix m = f.compose(f.s);
    for (const NewtonSchulzTable t : kTables) {
      const Matrix x = orthogonalized(*backend, options(t), m), e = expected(options(t), f);
      const double most = limit(t, c.power_law, c.rows == c.cols);
      EXPECT_LT(relative_difference(x, e), most) << c.name << ", " << scheme(t).name;
      if (most < 0.04) {
        EXPECT_GT(cosine(x, e), 0.999);
      }
    }
  }
}

// Every singular value of a well-conditioned matrix lands in the table's band.
TEST_P(NewtonSchulzTest, SingularValuesOfAWellConditionedMatrix) {
  struct {
    NewtonSchulzTable table;
    double low, high, bf16_slack;
  } const bands[] = {{NewtonSchulzTable::keller, 0.682, 1.134, 0.01},
                     {NewtonSchulzTable::polar_express, 0.859, 1.141, 0.01},
                     {NewtonSchulzTable::you, 0.978, 1.032, 0.008},
                     {NewtonSchulzTable::exact, 1, 1, 0.006},
                     {NewtonSchulzTable::polar_express_105, 0.846, 1.124, 0.01}};
  const std::int64_t n = size(192);
  for (const Shape& shape : {Shape{n, 4 * n}, Shape{4 * n, n}}) {
    const Matrix m = gaussian(shape[0], shape[1], 5);
    for (const auto& b : bands) {
      const std::vector<double> s = singular_values(orthogonalized(*backend, options(b.table), m));
      const double slack = rounded() ? b.bf16_slack : 1e-3;
      EXPECT_LE(s.front(), b.high + slack) << scheme(b.table).name;
      EXPECT_GE(s.back(), b.low - slack) << scheme(b.table).name;
    }
  }
}

// e3: how far u_i' X v_i is from 1 for the directions that have at least a thousandth of the norm, on a
// spectrum 1 / i^2 (condition 4e4), where most of the matrix is noise beside its first directions.
TEST_P(NewtonSchulzTest, DirectionsAboveAThousandthOfTheNorm) {
  const double most[] = {0.531, 0.157, 0.527, 0.008, 0.274};  // in the order of kTables
  const std::int64_t n = size(192);
  const Factored f = with_spectrum(n, n, power_spectrum(n, 2), 3);
  const Matrix m = f.compose(f.s);
  for (std::size_t t = 0; t < std::size(kTables); ++t) {
    const Matrix x = orthogonalized(*backend, options(kTables[t]), m);
    const Matrix d = product(product(transposed(f.u), x), transposed(f.v));
    double e3 = 0;
    for (std::int64_t i = 0; i < n; ++i)
      if (f.s[static_cast<std::size_t>(i)] >= 1e-3 * frobenius(m)) e3 = std::max(e3, std::abs(d(i, i) - 1));
    EXPECT_LE(e3, most[t] + (rounded() ? 0.02 : 0.002)) << scheme(kTables[t]).name;
  }
}

TEST_P(NewtonSchulzTest, ZeroStaysZeroAndScaleDoesNotMatter) {
  const Matrix m = gaussian(24, 40, 9);
  for (const NewtonSchulzTable t : kTables) {
    for (const double x : orthogonalized(*backend, options(t), Matrix(24, 40)).a) EXPECT_EQ(x, 0);
    for (const double x : orthogonalized(*backend, options(t), Matrix(40, 24)).a) EXPECT_EQ(x, 0);
    const Matrix one = orthogonalized(*backend, options(t), m);
    for (const double factor : {0x1p-40, 0x1p30})  // powers of two: the same bits
      EXPECT_LT(relative_difference(orthogonalized(*backend, options(t), combined(factor, m, 0, m)), one),
                1e-6);
  }
}

// Transposing is exact: a tall matrix gets the transposed result of the wide one.
TEST_P(NewtonSchulzTest, TallIsWideTransposed) {
  const Matrix m = gaussian(24, 64, 11);
  const Matrix wide = orthogonalized(*backend, options(NewtonSchulzTable::polar_express), m);
  const Matrix tall = orthogonalized(*backend, options(NewtonSchulzTable::polar_express), transposed(m));
  EXPECT_LT(relative_difference(transposed(tall), wide), rounded() ? 1e-3 : 1e-6);
}

// One workspace serves matrices of every shape in any order, with the result each would get alone.
TEST_P(NewtonSchulzTest, SharedWorkspace) {
  const std::vector<Shape> shapes = {{32, 8}, {16, 48}, {24, 24}};
  NewtonSchulz stage(options(NewtonSchulzTable::polar_express));
  const std::size_t before = backend->allocated_bytes();
  stage.prepare(*backend, shapes);
  EXPECT_EQ(backend->allocated_bytes() - before, stage.workspace_bytes(shapes, *backend));
  // The Gram form needs two more squares, of what is not square: {16, 48}'s.
  EXPECT_EQ(stage.workspace_bytes(shapes, *backend),
            (768 + 2 * 576 + (gram ? 2 * 256 : 0)) * (rounded() ? 2 : size_of(backend->master())));
  for (int round = 0; round < 2; ++round)
    for (const Shape& shape : shapes) {
      const Matrix m = gaussian(shape[0], shape[1], 2);
      const auto buffer = backend->allocate(m.a.size() * size_of(backend->master()), "u");
      const Tensor u = buffer->view(backend->master(), shape);
      write(*backend, u, m.a);
      EXPECT_EQ(host(*backend, stage.orthogonalize(u)),
                orthogonalized(*backend, options(NewtonSchulzTable::polar_express), m).a);
    }
}

// Each matrix of a batch gets the bits it would get alone.
TEST_P(NewtonSchulzTest, BatchEqualsSingle) {
  for (const Shape& shape : {Shape{24, 40}, Shape{40, 24}, Shape{24, 24}, Shape{9, 21}}) {
    const std::int64_t batch = 3;
    NewtonSchulz stage(options(NewtonSchulzTable::polar_express));
    const Shape all{batch, shape[0], shape[1]};
    stage.prepare(*backend, std::vector<Shape>{all});
    const auto buffer =
        backend->allocate(static_cast<std::size_t>(all.numel()) * size_of(backend->master()), "u");
    const Tensor u = buffer->view(backend->master(), all);
    std::vector<Matrix> single;
    for (std::int64_t i = 0; i < batch; ++i) {
      const Matrix m = gaussian(shape[0], shape[1], 70 + static_cast<std::uint64_t>(i));
      single.push_back(orthogonalized(*backend, options(NewtonSchulzTable::polar_express), m));
      write(*backend, u.matrix(i), m.a);
    }
    const Tensor x = stage.orthogonalize(u);
    ASSERT_EQ(x.shape, all);
    for (std::int64_t i = 0; i < batch; ++i)
      EXPECT_EQ(host(*backend, x.matrix(i)), single[static_cast<std::size_t>(i)].a) << shape.str() << i;
  }
}

// Momentum as an average or as a sum: one is the other times 1 - mu, and the direction does not see it.
TEST_P(NewtonSchulzTest, AveragedAndSummedMomentumAgree) {
  const double mu = 0.95;
  for (const bool nesterov : {false, true}) {
    Matrix average(16, 40), sum(16, 40), g(16, 40);
    for (std::uint64_t step = 0; step < 6; ++step) {
      g = gaussian(16, 40, 100 + step);
      average = combined(mu, average, 1 - mu, g);
      sum = combined(mu, sum, 1, g);
    }
    const Matrix a = nesterov ? combined(mu, average, 1 - mu, g) : average;
    const Matrix s = nesterov ? combined(mu, sum, 1, g) : sum;
    const NewtonSchulzOptions o = options(NewtonSchulzTable::keller);
    EXPECT_LT(relative_difference(orthogonalized(*backend, o, a), orthogonalized(*backend, o, s)),
              rounded() ? 0.03 : 64 * epsilon(*backend) * 16 * (gram ? 30 : 1));
  }
}

// The scalar iteration against the published bands (least and largest value over an interval).
TEST(NewtonSchulzTables, ScalarBands) {
  struct {
    NewtonSchulzTable table;
    int steps;
    double from, low, high;
  } const golden[] = {{NewtonSchulzTable::keller, 0, 1e-2, 0.682, 1.134},
                      {NewtonSchulzTable::keller, 0, 1.6e-3, 0.682, 1.202},
                      {NewtonSchulzTable::keller, 0, 1e-3, 0.471, 1.202},
                      {NewtonSchulzTable::keller, 10, 1e-2, 0.682, 1.134},
                      {NewtonSchulzTable::keller, 10, 1e-3, 0.682, 1.134},
                      {NewtonSchulzTable::you, 0, 1e-2, 0.978, 1.032},
                      {NewtonSchulzTable::you, 0, 1e-3, 0.475, 1.145},
                      {NewtonSchulzTable::polar_express, 0, 1e-2, 0.859, 1.141},
                      {NewtonSchulzTable::polar_express, 0, 1e-3, 0.847, 1.141},
                      {NewtonSchulzTable::exact, 5, 1e-2, 0.312, 1.002},
                      {NewtonSchulzTable::exact, 0, 1e-3, 1, 1},
                      {NewtonSchulzTable::exact, 0, 1e-4, 0.393, 1.002},
                      {NewtonSchulzTable::polar_express_105, 0, 1e-2, 0.846, 1.124},
                      {NewtonSchulzTable::polar_express_105, 0, 1e-3, 0.729, 1.124}};
  for (const auto& g : golden) {
    const NewtonSchulzOptions o{g.table, g.steps, DType::f32};
    double low = 2, high = 0;
    for (int i = 0; i <= 200000; ++i) {
      const double x = scalar(o, g.from * std::pow(1 / g.from, i / 200000.0));
      low = std::min(low, x);
      high = std::max(high, x);
    }
    EXPECT_NEAR(low, g.low, 6e-4) << scheme(g.table).name << " " << g.steps << " from " << g.from;
    EXPECT_NEAR(high, g.high, 6e-4) << scheme(g.table).name << " " << g.steps << " from " << g.from;
  }
  // Slope at zero: how far the smallest directions are lifted.
  EXPECT_NEAR(scalar({NewtonSchulzTable::keller, 0, DType::f32}, 1e-9) / 1e-9, 485, 1);
  EXPECT_NEAR(scalar({NewtonSchulzTable::you, 0, DType::f32}, 1e-9) / 1e-9, 493, 1);
  EXPECT_NEAR(scalar({NewtonSchulzTable::polar_express, 0, DType::f32}, 1e-9) / 1e-9, 970, 1);
  EXPECT_NEAR(scalar({NewtonSchulzTable::exact, 0, DType::f32}, 1e-9) / 1e-9, 4096, 1);
  EXPECT_NEAR(scalar({NewtonSchulzTable::polar_express_105, 0, DType::f32}, 1e-9) / 1e-9, 804, 1);
}

// The published tables once more, since every other test takes its coefficients from the code.
TEST(NewtonSchulzTables, Coefficients) {
  const std::vector<std::vector<double>> published[] = {
      {{3.4445, -4.7750, 2.0315}},
      {{8.156554524902461, -22.48329292557795, 15.878769915207462},
       {4.042929935166739, -2.808917465908714, 0.5000178451051316},
       {3.8916678022926607, -2.772484153217685, 0.5060648178503393},
       {3.285753657755655, -2.3681294933425376, 0.46449024233003106},
       {2.3465413258596377, -1.7097828382687081, 0.42323551169305323}},
      {{4.0848, -6.8946, 2.9270},
       {3.9505, -6.3029, 2.6377},
       {3.7418, -5.5913, 2.3037},
       {2.8769, -3.1427, 1.2046},
       {2.8366, -3.0525, 1.2012}},
      {{2, -1.5, 0.5}}};
  for (std::size_t t = 0; t < std::size(published); ++t) {
    const std::vector<Quintic>& table = scheme(kTables[t]).table;
    ASSERT_EQ(table.size(), published[t].size());
    for (std::size_t i = 0; i < table.size(); ++i) {
      EXPECT_EQ(table[i].a, static_cast<float>(published[t][i][0]));
      EXPECT_EQ(table[i].b, static_cast<float>(published[t][i][1]));
      EXPECT_EQ(table[i].c, static_cast<float>(published[t][i][2]));
    }
  }
}

TEST(NewtonSchulzTables, Steps) {
  const auto count = [](NewtonSchulzTable t, int steps) { return quintics({t, steps, DType::f32}).size(); };
  EXPECT_EQ(count(NewtonSchulzTable::keller, 0), 5u);
  EXPECT_EQ(count(NewtonSchulzTable::exact, 0), 12u);
  EXPECT_EQ(count(NewtonSchulzTable::you, 3), 3u);
  const auto more = quintics({NewtonSchulzTable::polar_express, 7, DType::f32});
  ASSERT_EQ(more.size(), 7u);
  EXPECT_EQ(more[6].a, more[4].a);
  EXPECT_NE(more[4].a, more[3].a);
  EXPECT_THROW(quintics({NewtonSchulzTable::you, -1, DType::f32}), RequestError);
  EXPECT_THROW(NewtonSchulz({NewtonSchulzTable::you, 0, DType::i32}), RequestError);
}

TEST(NewtonSchulzForms, Restarts) {
  const auto before = [](DType precision) {
    std::vector<int> steps;
    for (int i = 0; i < 12; ++i)
      if (gram_restarts(i, precision)) steps.push_back(i);
    return steps;
  };
  EXPECT_EQ(before(DType::f16), (std::vector<int>{2, 5, 8, 11}));
  EXPECT_EQ(before(DType::f32), (std::vector<int>{2, 5, 8, 11}));
  EXPECT_EQ(before(DType::bf16), (std::vector<int>{2, 4, 6, 8, 10}));
}

// In units of n^3; the published counts for five steps.
TEST(NewtonSchulzForms, Flops) {
  const auto cost = [](DType precision, NewtonSchulzForm form, std::int64_t ratio) {
    const NewtonSchulz stage({NewtonSchulzTable::polar_express, 5, precision, form});
    const double wide = stage.flops({64, 64 * ratio}), tall = stage.flops({64 * ratio, 64});
    EXPECT_EQ(wide, tall);
    return wide / (64.0 * 64 * 64);
  };
  EXPECT_DOUBLE_EQ(cost(DType::bf16, NewtonSchulzForm::standard, 4), 65);
  EXPECT_DOUBLE_EQ(cost(DType::f16, NewtonSchulzForm::gram, 4), 38);
  EXPECT_DOUBLE_EQ(cost(DType::f32, NewtonSchulzForm::gram, 4), 38);
  EXPECT_DOUBLE_EQ(cost(DType::bf16, NewtonSchulzForm::gram, 4), 47);
  EXPECT_DOUBLE_EQ(cost(DType::f16, NewtonSchulzForm::gram, 1), 20);
}

TEST(NewtonSchulzForms, F16NeedsAGpu) {
  NewtonSchulz stage({NewtonSchulzTable::polar_express, 0, DType::f16});
  const auto cpu = backend_named("cpu");
  const std::vector<Shape> shapes = {{8, 8}};
  try {
    stage.prepare(*cpu, shapes);
    FAIL() << "f16 was accepted on the CPU";
  } catch (const RequestError& e) {
    EXPECT_NE(std::string(e.what()).find("newton_schulz.precision f16 needs the CUDA device"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace spectrain
