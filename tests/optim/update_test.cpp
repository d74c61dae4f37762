#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "optim/newton_schulz.h"
#include "tests/optim/problem.h"

// Ten steps of AdamW and Muon against the same formulas written down plainly in float64.

namespace spectrain {
namespace {

constexpr int kSteps = 10;

double factor_at(int step) { return step < 3 ? (step + 1) / 3.0 : 1 - 0.05 * step; }  // some schedule

struct PlainAdamW {
  AdamWOptions o;
  Matrix m, v;
  void step(Matrix& w, const Matrix& g, int step) {
    const double lr = o.lr * factor_at(step);
    for (std::size_t i = 0; i < w.a.size(); ++i) {
      m.a[i] = o.beta1 * m.a[i] + (1 - o.beta1) * g.a[i];
      v.a[i] = o.beta2 * v.a[i] + (1 - o.beta2) * g.a[i] * g.a[i];
      const double mean = m.a[i] / (1 - std::pow(o.beta1, step + 1));
      const double square = v.a[i] / (1 - std::pow(o.beta2, step + 1));
      w.a[i] -= lr * o.weight_decay * w.a[i];
      w.a[i] -= lr * mean / (std::sqrt(square) + o.eps);
    }
  }
};

Matrix plain_newton_schulz(const NewtonSchulzOptions& o, const Matrix& u) {
  const bool tall = u.rows > u.cols;
  Matrix x = tall ? transposed(u) : u;
  x = combined(1 / (frobenius(u) * scheme(o.coefficients).safety), x, 0, x);
  for (const Quintic& q : quintics(o)) {
    const Matrix gram = product(x, transposed(x));
    const Matrix b = combined(double{q.b}, gram, double{q.c}, product(gram, gram));
    x = combined(double{q.a}, x, 1, product(b, x));
  }
  return tall ? transposed(x) : x;
}

struct PlainMuon {
  MuonOptions o;
  Matrix m;
  double scale() const {
    const double out = static_cast<double>(m.rows), in = static_cast<double>(m.cols);
    if (o.shape_scale == ShapeScale::match_rms) return 0.2 * std::sqrt(std::max(out, in));
    if (o.shape_scale == ShapeScale::unit_rms) return std::sqrt(out / in);
    return out > in ? std::sqrt(out / in) : 1;
  }
  double mu_at(int step) const {
    if (step < o.momentum_warmup.steps) {
      const double share = static_cast<double>(step) / static_cast<double>(o.momentum_warmup.steps);
      return (1 - share) * o.momentum_warmup.start + share * o.momentum;
    }
    const double left = static_cast<double>(kSteps - step) / static_cast<double>(o.momentum_cooldown.steps);
    if (o.momentum_cooldown.steps == 0 || left > 1) return o.momentum;
    return left * o.momentum + (1 - left) * o.momentum_cooldown.end;
  }
  void step(Matrix& w, const Matrix& g, int step) {
    const double lr = o.lr * factor_at(step), mu = mu_at(step);
    const double share = o.momentum_form == MomentumForm::sum ? 1 : 1 - mu;
    m = combined(mu, m, share, g);
    const Matrix u = o.nesterov ? combined(mu, m, share, g) : m;
    w = combined(1 - lr * o.weight_decay, w, -lr * scale(), plain_newton_schulz(o.newton_schulz, u));
  }
};

Matrix rows(const Matrix& m, std::int64_t first, std::int64_t count) {
  const auto at = m.a.begin() + first * m.cols;
  return {count, m.cols, std::vector<double>(at, at + count * m.cols)};
}

double largest_difference(const Matrix& a, const Matrix& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.a.size(); ++i) most = std::max(most, std::abs(a.a[i] - b.a[i]));
  return most;
}

class UpdateTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, UpdateTest, testing::Values("reference", "cpu"));

TEST_P(UpdateTest, AdamW) {
  for (const double decay : {0.0, 0.1}) {
    Problem p(GetParam());
    const AdamWOptions o{0.01, 0.9, 0.95, 1e-8, decay};
    const std::size_t table = p.add("table", {37, 19}, Role::embedding),
                      gain = p.add("gain", {21}, Role::gain);
    Optimizer optimizer(*p.backend, p.views(), {{{{Role::embedding, Role::gain}, o}}, 0});
    p.set_value(table, gaussian(37, 19, 1));
    p.set_value(gain, gaussian(1, 21, 2));
    Matrix w = p.value(table), one = p.value(gain);  // as rounded
    const Matrix gain_gradient = gaussian(1, 21, 50);
    PlainAdamW plain{o, Matrix(37, 19), Matrix(37, 19)}, plain_gain{o, Matrix(1, 21), Matrix(1, 21)};
    for (int step = 0; step < kSteps; ++step) {
      Matrix g = gaussian(37, 19, 10 + static_cast<std::uint64_t>(step));
      for (std::int64_t j = 0; j < 19; ++j) g(7, j) = 0;  // a token never seen
      p.set_gradient(table, g);
      p.set_gradient(gain, gain_gradient);
      optimizer.step(step, factor_at(step));
      plain.step(w, g, step);
      plain_gain.step(one, gain_gradient, step);
    }
    // Each step rounds the weight (up to 4) once or twice and an update of at most a few lr.
    const double tolerance = kSteps * 2 * epsilon(*p.backend) * (4 + 30 * o.lr);
    EXPECT_LT(largest_difference(p.value(table), w), tolerance);
    EXPECT_LT(largest_difference(p.value(gain), one), tolerance);
  }
}

void check_muon(Problem& p, const MuonOptions& o, const Shape& shape, const std::vector<std::int64_t>& splits,
                const std::string& what) {
  const std::size_t i = p.add(what, shape, Role::hidden, splits);
  Optimizer optimizer(*p.backend, {p.views()[i]}, {{{{Role::hidden}, o}}, 0, kSteps});
  p.set_value(i, combined(0.1, gaussian(shape[0], shape[1], 1), 0, gaussian(shape[0], shape[1], 1)));
  std::vector<std::int64_t> parts = splits.empty() ? std::vector<std::int64_t>{shape[0]} : splits;
  std::vector<Matrix> w;
  std::vector<PlainMuon> plain;
  std::int64_t row = 0;
  double scale = 0;
  for (const std::int64_t n : parts) {
    w.push_back(rows(p.value(i), row, n));
    plain.push_back({o, Matrix(n, shape[1])});
    scale = std::max(scale, plain.back().scale());
    row += n;
  }
  for (int step = 0; step < kSteps; ++step) {
    const Matrix g = gaussian(shape[0], shape[1], 20 + static_cast<std::uint64_t>(step));
    p.set_gradient(i, g);
    optimizer.step(step, factor_at(step));
    row = 0;
    for (std::size_t k = 0; k < parts.size(); ++k) {
      plain[k].step(w[k], rows(g, row, parts[k]), step);
      row += parts[k];
    }
  }
  // A direction the iteration lifts by at most 1000 (polar-express) carries its rounding error along.
  const double tolerance = kSteps * o.lr * scale * 4 * epsilon(*p.backend) * 1000;
  row = 0;
  for (std::size_t k = 0; k < parts.size(); ++k) {
    EXPECT_LT(largest_difference(rows(p.value(i), row, parts[k]), w[k]), tolerance) << what << " part " << k;
    row += parts[k];
  }
}

TEST_P(UpdateTest, Muon) {
  Problem p(GetParam());
  for (const ShapeScale scale : {ShapeScale::original, ShapeScale::match_rms, ShapeScale::unit_rms})
    for (const bool nesterov : {true, false})
      for (const double decay : {0.0, 0.1}) {
        MuonOptions o;
        o.lr = 0.05;
        o.shape_scale = scale;
        o.nesterov = nesterov;
        o.weight_decay = decay;
        check_muon(p, o, {24, 40}, {}, "wide");
        check_muon(p, o, {40, 24}, {}, "tall");
        check_muon(p, o, {32, 32}, {}, "square");
        check_muon(p, o, {40, 24}, {24, 8, 8}, "grouped qkv");
        check_muon(p, o, {66, 16}, {33, 33}, "gate and up");
      }
}

TEST_P(UpdateTest, MuonMomentumWarmupAndTables) {
  Problem p(GetParam());
  MuonOptions o;
  o.lr = 0.05;
  o.momentum_warmup = {0.5, 6};
  for (const auto table : {NewtonSchulzTable::keller, NewtonSchulzTable::polar_express,
                           NewtonSchulzTable::you, NewtonSchulzTable::exact}) {
    o.newton_schulz.coefficients = table;
    check_muon(p, o, {17, 40}, {}, std::string(scheme(table).name));
  }
}

TEST_P(UpdateTest, MuonMomentumFormsAndCooldown) {
  Problem p(GetParam());
  for (const MomentumForm form : {MomentumForm::ema, MomentumForm::sum})
    for (const bool nesterov : {true, false}) {
      MuonOptions o;
      o.lr = 0.05;
      o.nesterov = nesterov;
      o.momentum_form = form;
      o.momentum_warmup = {0.5, 4};
      o.momentum_cooldown = {0.6, 3};
      check_muon(p, o, {17, 40}, {}, form == MomentumForm::sum ? "sum" : "average");
    }
}

// At a constant mu the sum of gradients is the average times 1 / (1 - mu), which a polar factor does not see;
// while mu changes it is another rule.
TEST_P(UpdateTest, SumsAndAveragesOfGradientsAreOneRuleWhileMomentumIsConstant) {
  for (const bool constant : {true, false}) {
    std::vector<Matrix> ends;
    double tolerance = 0;
    for (const MomentumForm form : {MomentumForm::ema, MomentumForm::sum}) {
      Problem p(GetParam());
      MuonOptions o;
      o.lr = 0.05;
      o.momentum_form = form;
      if (!constant) o.momentum_warmup = {0.5, 6};
      tolerance = kSteps * o.lr * 4 * epsilon(*p.backend) * 1000;  // as in check_muon
      const std::size_t i = p.add("w", {24, 40}, Role::hidden);
      Optimizer optimizer(*p.backend, p.views(), {{{{Role::hidden}, o}}, 0});
      p.set_value(i, gaussian(24, 40, 1));
      for (int step = 0; step < kSteps; ++step) {
        p.set_gradient(i, gaussian(24, 40, 20 + static_cast<std::uint64_t>(step)));
        optimizer.step(step, factor_at(step));
      }
      ends.push_back(p.value(i));
    }
    const double difference = largest_difference(ends[0], ends[1]);
    if (constant) {
      EXPECT_LT(difference, tolerance);
    } else {
      EXPECT_GT(difference, 1e-3);
    }
  }
}

// One step without momentum or decay moves each part by lr times its own orthogonal factor.
TEST_P(UpdateTest, QueryKeyValueAreOrthogonalisedApart) {
  Problem p(GetParam());
  MuonOptions o;
  o.lr = 1;
  o.momentum = 0;
  o.newton_schulz.coefficients = NewtonSchulzTable::you;
  const std::size_t apart = p.add("apart", {48, 64}, Role::hidden, {16, 16, 16});
  const std::size_t fused = p.add("fused", {48, 64}, Role::hidden);
  Matrix g = gaussian(48, 64, 4);
  for (std::int64_t i = 16; i < 32; ++i)  // a part much smaller than the others
    for (std::int64_t j = 0; j < 64; ++j) g(i, j) *= 1e-3;
  p.set_gradient(apart, g);
  p.set_gradient(fused, g);
  Optimizer optimizer(*p.backend, p.views(), {{{{Role::hidden}, o}}, 0});
  optimizer.step(0, 1);
  for (std::int64_t part = 0; part < 3; ++part) {
    const std::vector<double> s = singular_values(rows(p.value(apart), 16 * part, 16));
    EXPECT_LT(s.front(), 1.035) << part;
    EXPECT_GT(s.back(), 0.97) << part;
  }
  EXPECT_LT(singular_values(rows(p.value(fused), 16, 16)).front(), 0.5)
      << "the small part is lost when fused";
}

TEST_P(UpdateTest, MuonInBfloat16StaysInBand) {
  if (std::string(GetParam()) == "reference") GTEST_SKIP() << "the float64 reference has no bf16 products";
  Problem p(GetParam());
  MuonOptions o;
  o.lr = 1;
  o.newton_schulz = {NewtonSchulzTable::polar_express, 0, DType::bf16};
  const std::size_t wide = p.add("wide", {32, 128}, Role::hidden),
                    tall = p.add("tall", {128, 32}, Role::hidden);
  p.set_gradient(wide, gaussian(32, 128, 4));
  p.set_gradient(tall, gaussian(128, 32, 5));
  Optimizer optimizer(*p.backend, p.views(), {{{{Role::hidden}, o}}, 0});
  optimizer.step(0, 1);
  for (const std::size_t i : {wide, tall}) {
    const std::vector<double> s = singular_values(p.value(i));
    const double scale = i == tall ? 2 : 1;  // original: sqrt(128 / 32)
    EXPECT_LT(s.front(), 1.151 * scale);
    EXPECT_GT(s.back(), 0.849 * scale);
  }
}

}  // namespace
}  // namespace spectrain
