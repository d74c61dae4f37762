#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/error.h"
#include "tests/optim/problem.h"

// Groups whose weights and moments are bf16 numbers between steps. (The float64 reference has no such
// numbers.)

namespace spectrain {
namespace {

using testing::HasSubstr;

class StorageTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, StorageTest, testing::Values("cpu", "cuda"));

bool is_bf16(double x) { return static_cast<double>(static_cast<float>(bf16(static_cast<float>(x)))) == x; }

// Half the distance of bf16 numbers around x: what one rounding may do.
double half_ulp(double x) {
  int exponent = 0;
  std::frexp(x, &exponent);
  return std::ldexp(0.5, std::max(exponent, -125) - 8);
}

OptimizerConfig stored(const RuleOptions& rule, StoredAs storage) {
  GroupConfig group{{Role::embedding}, rule};
  group.finish.storage = storage;
  OptimizerConfig config;
  config.groups = {group};
  return config;
}

// Every step against AdamW's formula in float64 from the numbers that the step began with, each of its three
// results rounded to bf16 once.
TEST_P(StorageTest, AdamWRoundsWeightsAndMomentsOnceAStep) {
  Problem p(GetParam());
  const AdamWOptions o{0.05, 0.8, 0.95, 1e-10, 0.1};
  const std::size_t table = p.add("table", {23, 19}, Role::embedding);
  Optimizer optimizer(*p.backend, p.views(), stored(o, StoredAs::bf16));
  p.set_value(table, gaussian(23, 19, 1));
  const std::vector<StateTensor> state = optimizer.state();
  ASSERT_EQ(state.size(), 2u);
  for (const StateTensor& s : state) EXPECT_EQ(s.tensor.dtype, DType::bf16) << s.name;
  for (int step = 0; step < 6; ++step) {
    Matrix w = p.value(table);
    // The first weights are of the master dtype; they count as rounded.
    for (double& x : w.a) x = static_cast<double>(static_cast<float>(bf16(static_cast<float>(x))));
    const Matrix m = p.read(state[0].tensor), v = p.read(state[1].tensor),
                 g = gaussian(23, 19, 10 + static_cast<std::uint64_t>(step));
    p.set_gradient(table, g);
    optimizer.step(step, 0.5);
    const Matrix new_w = p.value(table), new_m = p.read(state[0].tensor), new_v = p.read(state[1].tensor);
    for (std::size_t i = 0; i < w.a.size(); ++i) {
      const double mean = o.beta1 * m.a[i] + (1 - o.beta1) * g.a[i],
                   square = o.beta2 * v.a[i] + (1 - o.beta2) * g.a[i] * g.a[i];
      const double direction = mean / (1 - std::pow(o.beta1, step + 1)) /
                               (std::sqrt(square / (1 - std::pow(o.beta2, step + 1))) + o.eps);
      const double next = w.a[i] - 0.5 * o.lr * (o.weight_decay * w.a[i] + direction);
      // What float32 loses before the rounding is a thousandth of the distance of bf16 numbers.
      EXPECT_NEAR(new_w.a[i], next, half_ulp(next) + 16 * 0x1p-24 * (std::abs(w.a[i]) + 1)) << step;
      EXPECT_NEAR(new_m.a[i], mean, half_ulp(mean) + 16 * 0x1p-24);
      EXPECT_NEAR(new_v.a[i], square, half_ulp(square) + 16 * 0x1p-24);
      EXPECT_TRUE(is_bf16(new_w.a[i])) << new_w.a[i];
    }
  }
}

// An update below half the distance to the next bf16 number is lost: that is what the records do.
TEST_P(StorageTest, SmallUpdatesAreLost) {
  Problem p(GetParam());
  const std::size_t table = p.add("table", {8, 8}, Role::embedding);
  const Matrix ones = combined(0, gaussian(8, 8, 1), 0, gaussian(8, 8, 1));
  for (const StoredAs storage : {StoredAs::f32, StoredAs::bf16}) {
    Optimizer optimizer(*p.backend, p.views(), stored(AdamWOptions{1e-3, 0.9, 0.95, 1e-8, 0}, storage));
    Matrix w = ones;
    for (double& x : w.a) x = 1;
    p.set_value(table, w);
    p.set_gradient(table, w);
    for (int step = 0; step < 3; ++step) optimizer.step(step, 1);
    if (storage == StoredAs::bf16) {
      EXPECT_EQ(p.value(table).a, w.a);
    } else {
      EXPECT_LT(p.value(table).a[0], 0.9975);
    }
  }
}

TEST_P(StorageTest, HalvesTheStateOfEveryElementwiseRuleThatTakesIt) {
  Problem p(GetParam());
  p.add("table", {64, 32}, Role::embedding);
  const DType master = p.backend->master();
  int taken = 0;
  for (const RuleOptions& rule : all_rules()) {
    SCOPED_TRACE(rule.info().name);
    const auto bytes = [&](StoredAs storage) {
      return Optimizer::state_bytes(p.infos(), stored(rule, storage), master);
    };
    try {
      EXPECT_EQ(bytes(StoredAs::bf16) * size_of(master), bytes(StoredAs::f32) * size_of(DType::bf16));
      Optimizer optimizer(*p.backend, p.views(), stored(rule, StoredAs::bf16));
      p.set_value(0, gaussian(64, 32, 1));
      p.set_gradient(0, gaussian(64, 32, 2));
      optimizer.step(0, 1);
      for (const double x : p.value(0).a) EXPECT_TRUE(is_bf16(x));
      ++taken;
    } catch (const RequestError& e) {
      EXPECT_THAT(e.what(),
                  HasSubstr(": storage bf16 is for element-wise rules, such as adamw; leave it out"));
      EXPECT_TRUE(rule.info().matrices || rule.info().name == "adafactor" || rule.info().name == "scion");
    }
  }
  EXPECT_GE(taken, 7);
}

TEST(Storage, RefusesWhatChangesWeightsAfterTheyWereRounded) {
  Problem p("cpu");
  p.add("table", {16, 16}, Role::embedding);
  const auto refusal = [&](const std::function<void(GroupConfig&)>& change) {
    OptimizerConfig config = stored(AdamWOptions{}, StoredAs::bf16);
    change(config.groups[0]);
    try {
      Optimizer optimizer(*p.backend, p.views(), config);
    } catch (const RequestError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_EQ(refusal([](GroupConfig&) {}), "accepted");
  EXPECT_EQ(refusal([](GroupConfig& g) { g.finish.cautious = true; }), "accepted");
  EXPECT_THAT(refusal([](GroupConfig& g) { g.finish.constraint = Constraint::hyperball; }),
              HasSubstr("keeps no norm"));
  EXPECT_THAT(refusal([](GroupConfig& g) { g.finish.floor = 0.1; }), HasSubstr("keeps no norm"));
  EXPECT_THAT(refusal([](GroupConfig& g) { g.look_ahead.strength = 0.3; }),
              HasSubstr("look_ahead moves weights after they were rounded"));
}

}  // namespace
}  // namespace spectrain
