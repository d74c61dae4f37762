#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>

#include "kernels/error.h"
#include "tests/optim/json_options.h"
#include "tests/optim/problem.h"

// Rules that are a formula on each element, Adafactor, and what may come after any rule, against float64
// implementations in Python (fixtures/rules_elementwise.py, which compares itself with torch.optim).

namespace spectrain {
namespace {

using nlohmann::json;

constexpr int kSteps = kFixtureSteps;

const json& cases() {
  static const json all = fixture_cases("rules_elementwise.json");
  return all;
}

Shape shape_of(const json& test) {
  const auto dims = test["shape"].get<std::vector<std::int64_t>>();
  return dims.size() == 2 ? Shape{dims[0], dims[1]} : Shape{dims[0]};
}

std::vector<double> gradient_at(int step, std::int64_t n) {
  std::vector<double> g;
  for (std::int64_t i = 0; i < n; ++i)
    g.push_back(fixture_noise(100 + static_cast<std::uint64_t>(step), static_cast<std::uint64_t>(i)) *
                std::ldexp(1.0, -static_cast<int>(i % 5)));
  return g;
}

// One parameter, trained as a case says.
struct Training {
  Problem problem;
  std::int64_t n;
  std::unique_ptr<Optimizer> optimizer;

  Training(const std::string& backend, const json& test, Role role = Role::hidden)
      : problem(backend), n(shape_of(test).numel()) {
    problem.add("x", shape_of(test), role);
    std::vector<double> w;
    for (std::int64_t i = 0; i < n; ++i) w.push_back(fixture_noise(1, static_cast<std::uint64_t>(i)));
    set(problem.views()[0].value, w);
    optimizer = std::make_unique<Optimizer>(*problem.backend, problem.views(), config_of(test, role));
  }

  static OptimizerConfig config_of(const json& test, Role role) {
    GroupConfig group{{role}, rule_from_json(test["rule"], test["options"])};
    if (test.contains("finish")) {
      JsonOptions reader(test["finish"]);
      describe_options(reader, group.finish);
      reader.finish();
    }
    if (test.contains("look_ahead")) {
      const json& a = test["look_ahead"];
      group.look_ahead = {a["strength"], a["decay"], a["from"], a["until"]};
    }
    OptimizerConfig config{{group}};
    config.steps = kSteps;
    if (test.contains("average")) {
      const json& a = test["average"];
      config.average = {a["from"], a["decay"], a["blend"]};
    }
    return config;
  }

  void set(const Tensor& t, const std::vector<double>& values) { write(*problem.backend, t, values); }
  std::vector<double> weights() { return host(*problem.backend, problem.views()[0].value); }
  void step(int t) {
    if (optimizer->wants_sampled_gradient(t)) {
      std::vector<double> sampled;
      for (std::int64_t i = 0; i < n; ++i)
        sampled.push_back(fixture_noise(500 + static_cast<std::uint64_t>(t), static_cast<std::uint64_t>(i)) /
                          8);
      set(problem.views()[0].gradient, sampled);
      optimizer->observe_sampled(t, fixture_factor(t), 640);
    }
    set(problem.views()[0].gradient, gradient_at(t, n));
    optimizer->step(t, fixture_factor(t));
  }
};

std::string name_of_case(const json& test) {
  return test["rule"].get<std::string>() + " " + test.dump().substr(0, 200);
}

double worst(const std::vector<double>& a, const std::vector<double>& b) {
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

class ElementRules : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, ElementRules, testing::Values("reference", "cpu", "cuda"));

TEST_P(ElementRules, TenStepsAreThoseOfFloat64) {
  for (const json& test : cases()) {
    SCOPED_TRACE(name_of_case(test));
    Training training(GetParam(), test);
    for (int t = 0; t < kSteps; ++t) training.step(t);
    // Weights of up to 1 are rounded once a step; signs of numbers near 0 do not occur in the fixtures.
    const double tolerance = kSteps * 4 * epsilon(*training.problem.backend) * 2;
    EXPECT_LT(worst(training.weights(), test["weights"].get<std::vector<double>>()), tolerance);
    if (!test.contains("shown")) continue;
    ASSERT_TRUE(training.optimizer->has_average(kSteps));
    const std::vector<double> before = training.weights();
    training.optimizer->show_average();
    EXPECT_LT(worst(training.weights(), test["shown"].get<std::vector<double>>()), tolerance);
    training.optimizer->restore_weights();
    EXPECT_EQ(training.weights(), before);
  }
}

TEST_P(ElementRules, GradientsAreNotWrittenAndZerosGiveNumbers) {
  for (const json& test : cases()) {
    SCOPED_TRACE(name_of_case(test));
    Training training(GetParam(), test);
    const std::vector<double> zeros(static_cast<std::size_t>(training.n), 0.0);
    training.set(training.problem.views()[0].gradient, zeros);
    training.optimizer->step(0, 1);
    for (const double w : training.weights()) ASSERT_TRUE(std::isfinite(w));
    const std::vector<double> g = gradient_at(1, training.n);
    training.set(training.problem.views()[0].gradient, g);
    const std::vector<double> stored = host(*training.problem.backend, training.problem.views()[0].gradient);
    training.optimizer->step(1, 1);
    EXPECT_EQ(host(*training.problem.backend, training.problem.views()[0].gradient), stored);
  }
}

// Stopped after five steps and gone on with by another optimizer that has the weights and the state.
TEST_P(ElementRules, GoesOnBitExactly) {
  for (const json& test : cases()) {
    SCOPED_TRACE(name_of_case(test));
    Training whole(GetParam(), test), second(GetParam(), test);
    for (int t = 0; t < 5; ++t) whole.step(t);
    Backend& b = *second.problem.backend;
    write(b, second.problem.views()[0].value, whole.weights());
    const auto from = whole.optimizer->state(), to = second.optimizer->state();
    ASSERT_EQ(from.size(), to.size());
    for (std::size_t i = 0; i < from.size(); ++i) {
      ASSERT_EQ(from[i].name, to[i].name);
      write(b, to[i].tensor, host(*whole.problem.backend, from[i].tensor));
    }
    for (int t = 5; t < kSteps; ++t) {
      whole.step(t);
      second.step(t);
    }
    EXPECT_EQ(whole.weights(), second.weights());
  }
}

TEST(ElementRules, StateIsWhatIsStated) {
  const auto numbers = [](const char* rule, json options, const Shape& shape) {
    Problem p("reference");
    p.add("x", shape, Role::hidden);
    Optimizer o(*p.backend, p.views(), {{{{Role::hidden}, rule_from_json(rule, options)}}});
    std::int64_t sum = 0;
    for (const StateTensor& s : o.state()) sum += s.tensor.numel();
    return sum;
  };
  EXPECT_EQ(numbers("sgd", json::object(), {6, 9}), 0);
  EXPECT_EQ(numbers("sgd", {{"momentum", 0.9}}, {6, 9}), 54);
  EXPECT_EQ(numbers("signum", json::object(), {6, 9}), 54);
  EXPECT_EQ(numbers("signum", {{"momentum", 0}}, {6, 9}), 0);
  EXPECT_EQ(numbers("lion", json::object(), {6, 9}), 54);
  EXPECT_EQ(numbers("adam", json::object(), {6, 9}), 108);
  EXPECT_EQ(numbers("ademamix", json::object(), {6, 9}), 162);
  EXPECT_EQ(numbers("sophia", json::object(), {6, 9}), 108);
  EXPECT_EQ(numbers("adafactor", json::object(), {6, 9}), 15);
  EXPECT_EQ(numbers("adafactor", json::object(), {9}), 9);
}

TEST(ElementRules, RefuseWhatDoesNotFit) {
  const auto refusal = [](const char* rule, json options, FinishOptions finish = {}) -> std::string {
    try {
      rule_from_json(rule, options).make(finish);
    } catch (const RequestError& e) {
      return e.what();
    }
    return "";
  };
  FinishOptions hyperball;
  hyperball.constraint = Constraint::hyperball;
  EXPECT_THAT(refusal("sgd", {{"nesterov", true}}), testing::HasSubstr("needs a momentum above 0"));
  EXPECT_THAT(refusal("lion", {{"betas", {0.9, 1.0}}}), testing::HasSubstr("betas is 1"));
  EXPECT_THAT(refusal("adamw", {{"weight_decay", 0.1}}, hyperball),
              testing::HasSubstr("weight_decay is 0.1"));
  hyperball.floor = 0.3;
  EXPECT_THAT(refusal("adamw", json::object(), hyperball), testing::HasSubstr("update_floor"));
  EXPECT_THAT(refusal("ademamix", {{"betas", {0.9, 0.9, 0.5}}}), testing::HasSubstr("below the fast"));
}

// A weight of zeros could never leave a ball of radius 0.
TEST(ElementRules, HyperballNeedsAWeight) {
  Problem p("reference");
  p.add("x", {9, 10}, Role::hidden);
  GroupConfig group{{Role::hidden}, AdamWOptions{}};
  group.finish.constraint = Constraint::hyperball;
  Optimizer o(*p.backend, p.views(), {{group}});
  EXPECT_THROW(o.step(0, 1), Error);
}

}  // namespace
}  // namespace spectrain
