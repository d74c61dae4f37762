#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "kernels/error.h"
#include "optim/newton_schulz.h"
#include "tests/optim/json_options.h"
#include "tests/optim/problem.h"

// Rules for whole matrices against float64 implementations in Python (fixtures/rules_matrix.py, whose Muon is
// compared with torch.optim.Muon), and what every one of them promises.

namespace spectrain {
namespace {

using nlohmann::json;

constexpr int kSteps = kFixtureSteps;

const json& cases() {
  static const json all = fixture_cases("rules_matrix.json");
  return all;
}

double noise(std::uint64_t seed, std::int64_t i) {
  return fixture_noise(seed, static_cast<std::uint64_t>(i));
}

// gradient() of the script.
Matrix gradient(const std::string& kind, int step, std::int64_t m, std::int64_t n) {
  const auto t = static_cast<std::uint64_t>(step);
  const bool scaled = kind == "graded" || kind == "turning", turned = kind == "turning" && step >= 4;
  Matrix g(m, n);
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t j = 0; j < n; ++j) {
      g(i, j) = noise(100 + t, i * n + j) / (scaled ? 16 : 1);
      if (scaled && i == j) g(i, j) = static_cast<double>(8 + (turned ? std::min(m, n) - 1 - i : i)) / 16;
    }
  if (kind != "low") return g;
  Matrix left(m, 3), right(3, n);
  for (std::int64_t i = 0; i < 3 * m; ++i) left.a[static_cast<std::size_t>(i)] = noise(200 + t, i);
  for (std::int64_t i = 0; i < 3 * n; ++i) right.a[static_cast<std::size_t>(i)] = noise(300 + t, i);
  return product(left, right);
}

// One matrix, trained as a case says.
struct Training {
  Problem problem;
  std::int64_t rows, cols;
  std::string kind;
  std::unique_ptr<Optimizer> optimizer;

  Training(const std::string& backend, const json& test)
      : problem(backend), rows(test["rows"]), cols(test["cols"]), kind(test["gradient"]) {
    problem.add("x", {rows, cols}, Role::hidden);
    Matrix w(rows, cols);
    for (std::int64_t i = 0; i < rows * cols; ++i) w.a[static_cast<std::size_t>(i)] = noise(1, i) / 32;
    problem.set_value(0, w);
    optimizer = std::make_unique<Optimizer>(
        *problem.backend, problem.views(),
        OptimizerConfig{{{{Role::hidden}, rule_from_json(test["rule"], test["options"])}}});
  }
  void step(int t) {
    problem.set_gradient(0, gradient(kind, t, rows, cols));
    optimizer->step(t, fixture_factor(t));
  }
  void run() {
    for (int t = 0; t < kSteps; ++t) step(t);
  }
};

std::string name_of_case(const json& test) {
  return test["rule"].get<std::string>() + " " + test["options"].dump() + " " +
         test["gradient"].get<std::string>() + " " + test["rows"].dump() + "x" + test["cols"].dump();
}

// The worst difference from the fixture in units of what an element moved (root mean square): of single
// elements, and of sums of all with some signs, per root of their number.
double distance(const Matrix& w, const json& test) {
  const double root = std::sqrt(static_cast<double>(w.rows * w.cols));
  const double moved = test["moved"].get<double>() / root;
  double most = 0;
  const auto samples = test["samples"].get<std::vector<double>>();
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const std::size_t at = (i * 7919 + 13) % w.a.size();
    most = std::max(most, std::abs(w.a[at] - samples[i]) / moved);
  }
  const auto sums = test["sums"].get<std::vector<double>>();
  for (std::size_t k = 0; k < sums.size(); ++k) {
    double sum = 0;
    for (std::int64_t i = 0; i < w.rows * w.cols; ++i)
      sum += (noise(400 + k, i) < 0 ? -1 : 1) * w.a[static_cast<std::size_t>(i)];
    most = std::max(most, std::abs(sum - sums[k]) / (moved * root));
  }
  return most;
}

// The emulated GPU is slow: rules that between them use everything a device has to offer, on one shape.
bool runs_here(const std::string& backend, const json& test) {
  const std::string rule = test["rule"];
  return backend != "cuda" || (test["rows"] == 32 && rule != "muon" && rule != "adamuon");
}

class MatrixRules : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, MatrixRules, testing::Values("reference", "cpu", "cuda"));

// Absolute, of one element. Weights of up to 1/16 are rounded once a step, and the fixture's sums are of 1024
// doubles of that size. Beside that a direction, which is of the size of what moved, has its own rounding:
//   - of one number, a few eps; Newton-Schulz lifts small singular values, and their rounding, up to
//   500-fold,
//     but these matrices have few of them;
//   - SOAP's directions are quotients near 1 in a basis of eigenvectors, which turn by eps times the largest
//     eigenvalue over the gap to the neighbour: some thousand for 32 eigenvalues.
double tolerance(const json& test, double eps) {
  const double moved = test["moved"].get<double>() /
                       std::sqrt(static_cast<double>(test["rows"].get<int>() * test["cols"].get<int>()));
  const bool basis = test["rule"] == "soap" && test["rows"].get<int>() * test["cols"].get<int>() == 1024;
  const bool one_sided = test["rule"] == "soap" && !basis;
  return eps * (kSteps / 16.0 + (basis ? 20000 : one_sided ? 1000 : 500) * moved);
}

TEST_P(MatrixRules, TenStepsAreThoseOfFloat64) {
  std::size_t tried = 0;
  for (const json& test : cases()) {
    if (!runs_here(GetParam(), test)) continue;
    SCOPED_TRACE(name_of_case(test));
    Training training(GetParam(), test);
    training.run();
    const double moved =
        test["moved"].get<double>() / std::sqrt(static_cast<double>(training.rows * training.cols));
    EXPECT_LT(distance(training.problem.value(0), test) * moved,
              tolerance(test, epsilon(*training.problem.backend)));
    ++tried;
  }
  EXPECT_GT(tried, 10u);
}

TEST_P(MatrixRules, GradientsAreNotWrittenAndZerosGiveNumbers) {
  for (const json& test : cases()) {
    if (!runs_here(GetParam(), test)) continue;
    SCOPED_TRACE(name_of_case(test));
    Training training(GetParam(), test);
    Problem& p = training.problem;
    const Matrix before = p.value(0);
    for (int t = 0; t < 6; ++t) training.optimizer->step(t, 1);  // the gradient is still zeros
    const Matrix after = p.value(0);
    for (std::size_t i = 0; i < after.a.size(); ++i) {
      ASSERT_TRUE(std::isfinite(after.a[i]));
      ASSERT_LE(std::abs(after.a[i]), std::abs(before.a[i])) << "moved without a gradient";
    }
    const Matrix g = gradient(training.kind, 1, training.rows, training.cols);
    p.set_gradient(0, g);
    const Matrix stored = p.read(p.views()[0].gradient);
    training.optimizer->step(6, 1);
    EXPECT_EQ(p.read(p.views()[0].gradient).a, stored.a);
    for (const double w : p.value(0).a) ASSERT_TRUE(std::isfinite(w));
  }
}

// Stopped after five steps and gone on with by another optimizer that has the weights and the state.
TEST_P(MatrixRules, GoesOnBitExactly) {
  for (const json& test : cases()) {
    if (!runs_here(GetParam(), test)) continue;
    SCOPED_TRACE(name_of_case(test));
    Training whole(GetParam(), test), second(GetParam(), test);
    for (int t = 0; t < 5; ++t) whole.step(t);
    second.problem.set_value(0, whole.problem.value(0));
    const auto from = whole.optimizer->state(), to = second.optimizer->state();
    ASSERT_EQ(from.size(), to.size());
    for (std::size_t i = 0; i < from.size(); ++i) {
      ASSERT_EQ(from[i].name, to[i].name);
      write(*second.problem.backend, to[i].tensor, host(*whole.problem.backend, from[i].tensor));
    }
    for (int t = 5; t < kSteps; ++t) {
      whole.step(t);
      second.step(t);
    }
    EXPECT_EQ(whole.problem.value(0).a, second.problem.value(0).a);
  }
}

// Several matrices of several shapes under each rule with its defaults: the memory is what is planned, and
// what a run allocates later is a backend's own, until the first factorisation: not more in any later step.
TEST_P(MatrixRules, MemoryIsWhatIsPlanned) {
  for (const RuleOptions& rule : all_rules()) {
    if (!rule.info().matrices && rule.info().name != "scion") continue;
    SCOPED_TRACE(rule.info().name);
    Problem p(GetParam());
    p.add("a", {24, 40}, Role::hidden);
    p.add("b", {96, 32}, Role::hidden, {32, 32, 32});
    p.add("c", {40, 24}, Role::hidden);
    p.add("small", {3, 40}, Role::hidden);
    p.add("vector", {17}, Role::hidden);
    const OptimizerConfig config{{{{Role::hidden}, rule}}};
    const std::size_t before = p.backend->allocated_bytes();
    Optimizer o(*p.backend, p.views(), config);
    EXPECT_EQ(p.backend->allocated_bytes() - before,
              Optimizer::state_bytes(p.infos(), config, p.backend->master()) +
                  Optimizer::workspace_bytes(p.infos(), config, *p.backend));
    const auto step = [&](int t) {
      for (std::size_t i = 0; i < p.views().size(); ++i) {
        const Tensor g = p.views()[i].gradient;
        p.set_gradient(i, gradient("noise", t + 10 * static_cast<int>(i), g.rows(), g.cols()));
      }
      o.step(t, 1);
    };
    const int most = std::string(GetParam()) == "cuda" ? 6 : 12;
    for (int t = 0; t < most; ++t) step(t);
    const std::size_t after = p.backend->allocated_bytes();
    for (int t = most; t < most + 2; ++t) step(t);
    EXPECT_EQ(p.backend->allocated_bytes(), after);
    for (std::size_t i = 0; i < p.views().size(); ++i)
      for (const double w : p.value(i).a) ASSERT_TRUE(std::isfinite(w));
  }
}

// A step that is left out, because its gradient is not finite, may be the first.
TEST_P(MatrixRules, AFirstStepThatIsLeftOutDoesNoHarm) {
  for (const json& test : cases()) {
    if (!runs_here(GetParam(), test) || test["rows"] != 32) continue;
    SCOPED_TRACE(name_of_case(test));
    Training training(GetParam(), test);
    Matrix g = gradient(training.kind, 0, 32, 32);
    g(3, 4) = std::numeric_limits<double>::infinity();
    training.problem.set_gradient(0, g);
    EXPECT_FALSE(training.optimizer->step(0, 1).finite);
    const Matrix before = training.problem.value(0);
    for (int t = 1; t < kSteps; ++t) training.step(t);
    EXPECT_GT(relative_difference(training.problem.value(0), before), 0.01) << "never moved";
  }
}

std::int64_t state_numbers(const char* rule, const json& options, const Shape& shape) {
  Problem p("reference");
  p.add("x", shape, Role::hidden);
  Optimizer o(*p.backend, p.views(), {{{{Role::hidden}, rule_from_json(rule, options)}}});
  std::int64_t sum = 0;
  for (const StateTensor& s : o.state()) sum += s.tensor.numel();
  return sum;
}

TEST(MatrixRulesState, IsWhatIsStated) {
  const json none = json::object();
  constexpr std::int64_t kAll = 24 * 40, kFactors = 2 * (24 * 24 + 40 * 40);
  EXPECT_EQ(state_numbers("muon", none, {24, 40}), kAll);
  EXPECT_EQ(state_numbers("spectral_descent", none, {24, 40}), 0);
  EXPECT_EQ(state_numbers("spectral_descent", {{"momentum", 0.9}}, {24, 40}), kAll);
  EXPECT_EQ(state_numbers("normuon", none, {24, 40}), kAll + 24);
  EXPECT_EQ(state_numbers("normuon", {{"reduce", "longer"}}, {24, 40}), kAll + 40);
  EXPECT_EQ(state_numbers("adamuon", none, {24, 40}), 2 * kAll);
  EXPECT_EQ(state_numbers("dion2", none, {24, 40}), kAll);
  EXPECT_EQ(state_numbers("scion", none, {24, 40}), kAll);
  EXPECT_EQ(state_numbers("scion", none, {40}), 40);
  EXPECT_EQ(state_numbers("soap", none, {24, 40}), 2 * kAll + kFactors);
  EXPECT_EQ(state_numbers("soap", {{"max_dimension", 30}}, {24, 40}), 2 * kAll + 2 * 24 * 24 + 2);
  EXPECT_EQ(state_numbers("shampoo", none, {24, 40}), 2 * kAll + kFactors);
  EXPECT_EQ(state_numbers("shampoo", {{"grafting", "none"}}, {24, 40}), kAll + kFactors);
}

// The same step is lr times the shape's factor, whichever scale: a table for converting learning rates.
TEST(MatrixRulesScale, LearningRatesConvertExactly) {
  for (const char* rule : {"muon", "normuon", "spectral_descent", "dion2"})
    for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{24, 40}, {40, 24}, {32, 32}}) {
      const auto trained = [&, m = rows, n = cols](const char* scale, double factor) {
        const double lr = 0.02 * shape_factor(ShapeScale::original, m, n) / factor;
        json test = {{"rule", rule}, {"rows", m}, {"cols", n}, {"gradient", "graded"}};
        test["options"] = {{"shape_scale", scale}, {"lr", lr}, {"weight_decay", 0}};
        Training training("reference", test);
        training.run();
        return training.problem.value(0);
      };
      const Matrix original = trained("original", shape_factor(ShapeScale::original, rows, cols));
      const struct {
        const char* word;
        ShapeScale scale;
      } others[] = {{"match_rms", ShapeScale::match_rms},
                    {"unit_rms", ShapeScale::unit_rms},
                    {"none", ShapeScale::none}};
      for (const auto& other : others)
        EXPECT_LT(relative_difference(trained(other.word, shape_factor(other.scale, rows, cols)), original),
                  kSteps * 8 * 0x1p-53)
            << rule << " " << other.word << " " << rows << "x" << cols;
    }
}

// momentum.h: the sum M = mu M + G with u = G + mu M is 1 / (1 - mu) times the average, and the orthogonal
// factor does not see that.
TEST(MatrixRulesMomentum, SumAndAverageGiveTheSameMuon) {
  for (const bool nesterov : {true, false}) {
    const json test = {{"rule", "muon"},
                       {"rows", 24},
                       {"cols", 40},
                       {"gradient", "noise"},
                       {"options", {{"nesterov", nesterov}, {"lr", 0.02}}}};
    Training average("reference", test);
    Backend& backend = *average.problem.backend;
    NewtonSchulz stage{NewtonSchulzOptions{}};
    stage.prepare(backend, std::vector<Shape>{{24, 40}});
    const auto memory = backend.allocate(24 * 40 * sizeof(double), "u");
    const Tensor u = memory->view(DType::f64, {24, 40});
    Matrix w = average.problem.value(0), sum(24, 40);
    for (int t = 0; t < kSteps; ++t) {
      average.step(t);
      const Matrix g = gradient("noise", t, 24, 40);
      sum = combined(0.95, sum, 1, g);
      write(backend, u, (nesterov ? combined(1, g, 0.95, sum) : sum).a);
      const Matrix o(24, 40, host(backend, stage.orthogonalize(u)));
      w = combined(1, w, -0.02 * fixture_factor(t), o);
    }
    // Newton-Schulz lifts the difference of two roundings of u up to 1000-fold.
    EXPECT_LT(relative_difference(w, average.problem.value(0)), kSteps * 1000 * 0x1p-53);
  }
}

TEST(MatrixRules, RefuseWhatDoesNotFit) {
  const auto refusal = [](const char* rule, const json& options, FinishOptions finish = {}) -> std::string {
    try {
      rule_from_json(rule, options).make(finish);
    } catch (const RequestError& e) {
      return e.what();
    }
    return "";
  };
  FinishOptions hyperball, cautious;
  hyperball.constraint = Constraint::hyperball;
  cautious.cautious = true;
  EXPECT_THAT(refusal("soap", {{"frequency", 0}}), testing::HasSubstr("frequency is 0"));
  EXPECT_THAT(refusal("soap", {{"betas", {0.9, 1.0}}}), testing::HasSubstr("betas is 1"));
  EXPECT_THAT(refusal("dion2", {{"fraction", 0}}), testing::HasSubstr("fraction is 0"));
  EXPECT_THAT(refusal("scion", json::object(), hyperball), testing::HasSubstr("constrained to false"));
  EXPECT_THAT(refusal("scion", json::object(), cautious), testing::HasSubstr("constrained to false"));
  EXPECT_EQ(refusal("scion", {{"constrained", false}}, hyperball), "");
  EXPECT_EQ(refusal("soap", {{"weight_decay", 0}}, hyperball), "");
}

// Vectors and slivers: scion's auto takes them, its spectral form leaves them to the element-wise rule.
TEST(MatrixRules, ScionTakesVectorsUnlessToldTheNorm) {
  const auto takes = [](const char* lmo, const Shape& shape) {
    return rule_from_json("scion", {{"lmo", lmo}}).make({})->objection(shape).empty();
  };
  EXPECT_TRUE(takes("auto", {17}));
  EXPECT_TRUE(takes("auto", {3, 40}));
  EXPECT_TRUE(takes("sign", {17}));
  EXPECT_FALSE(takes("spectral", {17}));
  EXPECT_FALSE(takes("spectral", {3, 40}));
  EXPECT_TRUE(takes("spectral", {8, 40}));
}

// Hyperball, floors and cautious decay are finish.h's, behind every rule: the norm stays what it was.
TEST(MatrixRules, CombineWithTheHyperball) {
  for (const RuleOptions& rule : all_rules()) {
    if (!rule.info().matrices && rule.info().name != "scion") continue;
    SCOPED_TRACE(rule.info().name);
    RuleOptions options = rule;
    const json values =
        rule.info().name == "scion" ? json{{"constrained", false}} : json{{"weight_decay", 0}};
    JsonOptions reader(values);
    options.describe(reader);
    Problem p("reference");
    p.add("x", {24, 40}, Role::hidden);
    p.set_value(0, gaussian(24, 40, 1));
    const double norm = frobenius(p.value(0));
    GroupConfig group{{Role::hidden}, options};
    group.finish.constraint = Constraint::hyperball;
    Optimizer o(*p.backend, p.views(), {{group}});
    const Matrix before = p.value(0);
    for (int t = 0; t < 7; ++t) {
      p.set_gradient(0, gradient("noise", t, 24, 40));
      o.step(t, 1);
    }
    EXPECT_NEAR(frobenius(p.value(0)), norm, 1e-12 * norm);
    EXPECT_GT(relative_difference(p.value(0), before), 1e-4);
  }
}

}  // namespace
}  // namespace spectrain
