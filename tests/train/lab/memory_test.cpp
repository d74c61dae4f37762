#include "train/lab/memory.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "train/lab/judge.h"
#include "train/lab/memory_rotated.h"

// The reduction to groups against full K x K runs, gradients against finite differences, and the laws in
// closed form.

namespace spectrain::lab {
namespace {

constexpr std::int64_t kGroups = 4, kPerGroup = 12;  // K = 48

// Adding a constant to a column changes no probability, and no gradient moves along it; an orthogonal factor
// may, where rounding has left a direction in the gradient that it does not have.
Matrix centred(Matrix w) {
  for (std::int64_t j = 0; j < w.cols; ++j) {
    double mean = 0;
    for (std::int64_t i = 0; i < w.rows; ++i) mean += w(i, j) / static_cast<double>(w.rows);
    for (std::int64_t i = 0; i < w.rows; ++i) w(i, j) -= mean;
  }
  return w;
}

struct Case {
  const char* name;
  MemoryRule reduced;
  FullRule full;
  double eta, alpha;
};

class MemoryReduction : public testing::TestWithParam<Case> {};

TEST_P(MemoryReduction, AgreesWithTheFullMatrix) {
  const Case& c = GetParam();
  const MemoryTask task(kGroups, kPerGroup, 1.5, c.alpha);
  GroupedMatrix w(kGroups);
  Matrix full(task.items(), task.items());
  for (int t = 0; t < 12; ++t) {
    const MemoryState state = evaluate(task, w);
    const RotatedMemory::Seen seen = memory_gradient(task, full);
    EXPECT_NEAR(state.total, seen.excess, 1e-12);
    for (std::int64_t g = 0; g < kGroups; ++g)
      EXPECT_NEAR(state.correct[static_cast<std::size_t>(g)], seen.correct[static_cast<std::size_t>(g)],
                  1e-12);
    EXPECT_LT(largest_difference(expanded(state.gradient, kPerGroup), seen.in_basis), 1e-15);
    w.add_scaled(-c.eta, direction(task, state.gradient, c.reduced));
    Matrix d = seen.in_basis;
    if (c.full == FullRule::normalized) d = scaled(1 / frobenius(d), d);
    if (c.full == FullRule::orthogonal) d = polar(d).factor;
    if (c.full == FullRule::sign_in_basis)
      for (double& x : d.a) x = x > 0 ? 1 : x < 0 ? -1 : 0;
    add_scaled(full, -c.eta, d);
    ASSERT_LT(largest_difference(centred(expanded(w, kPerGroup)), centred(full)), 1e-12) << "step " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Rules, MemoryReduction,
    testing::Values(Case{"gradient", MemoryRule::gradient, FullRule::gradient, 24, 0},
                    Case{"gradient_noise", MemoryRule::gradient, FullRule::gradient, 24, 0.2},
                    Case{"normalized", MemoryRule::normalized, FullRule::normalized, 2, 0},
                    Case{"muon", MemoryRule::orthogonal, FullRule::orthogonal, 0.5, 0},
                    Case{"muon_noise", MemoryRule::orthogonal, FullRule::orthogonal, 0.5, 0.2},
                    Case{"sign", MemoryRule::sign_in_basis, FullRule::sign_in_basis, 0.25, 0}),
    [](const auto& test) { return std::string(test.param.name); });

// From W = 0 all wrong answers of a column stay alike under gradient descent: one number per group says
// everything.
TEST(MemoryReduction, GradientDescentNeedsOneNumberPerGroup) {
  for (const double alpha : {0.0, 0.1}) {
    const MemoryTask task(6, 20, 2, alpha);
    const double eta = 1 / task.frequency(0);
    const std::vector<double> groups = memory_run(task, MemoryRule::gradient, eta, 50),
                              columns = memory_gradient_run(task, eta, 50);
    for (std::size_t t = 0; t < groups.size(); ++t)
      EXPECT_NEAR(groups[t], columns[t], 1e-12 * (1 + groups[t]));
  }
}

TEST(Memory, GradientIsThatOfTheExcess) {
  const MemoryTask task(3, 4, 1, 0.15);
  const std::int64_t k = task.items();
  Matrix w = gaussian(k, k, key_of(3, "weight"));
  const Matrix gradient = memory_gradient(task, w).in_basis;
  constexpr double kStep = 1e-5;
  for (std::int64_t i = 0; i < k; i += 3)
    for (std::int64_t j = 0; j < k; j += 2) {
      const double kept = w(i, j);
      w(i, j) = kept + kStep;
      const double above = memory_gradient(task, w).excess;
      w(i, j) = kept - kStep;
      const double below = memory_gradient(task, w).excess;
      w(i, j) = kept;
      // Third derivatives are below 1, rounding of the excess below 1e-15 times a few.
      EXPECT_NEAR((above - below) / (2 * kStep), gradient(i, j), kStep * kStep + 1e-10);
    }
}

TEST(Memory, ExcessIsZeroAtTheAnswersOwnProbabilities) {
  const MemoryTask task(3, 5, 1.5, 0.3);
  GroupedMatrix w(3);
  for (double& a : w.a) a = std::log(task.right() / task.wrong());
  const MemoryState state = evaluate(task, w);
  EXPECT_NEAR(state.total, 0, 1e-14);
  EXPECT_LT(largest_magnitude(expanded(state.gradient, 5)), 1e-16);
  EXPECT_NEAR(evaluate(task, GroupedMatrix(3)).total, std::log(15.0) - task.entropy(), 1e-13);
}

// Rotating the embeddings rotates gradient and weight: rules that know no coordinates take the same way.
TEST(Memory, RotationChangesNothingForOrthogonalSteps) {
  const MemoryTask task(3, 5, 1.5, 0);
  const RotatedMemory memory(task, 1);
  const auto backend = make_cpu_backend();
  MemoryTraining training(memory, task, FullRule::orthogonal, 0.3, *backend);
  GroupedMatrix w(3);
  for (int t = 0; t < 8; ++t) {
    const RotatedMemory::Seen seen = training.seen();
    const MemoryState state = evaluate(task, w);
    EXPECT_NEAR(seen.excess, state.total, 1e-12);
    training.step(seen);
    w.add_scaled(-0.3, direction(task, state.gradient, MemoryRule::orthogonal));
  }
}

TEST(Memory, MuonWithoutNoiseFollowsKTimesExpMinusT) {
  const MemoryTask task(10, 1000, 1.5, 0);
  const std::vector<double> loss = memory_run(task, MemoryRule::orthogonal, 1, 20);
  EXPECT_NEAR(loss[14], 3.053e-3, 5e-7);  // an independent implementation's
  EXPECT_NEAR(loss[19], 2.060e-5, 5e-9);
  EXPECT_NEAR(loss[19] / (1e4 * std::exp(-20.0)), 1, 0.01);
  const std::vector<double> gradient = memory_run(task, MemoryRule::gradient, 5000, 3000);
  EXPECT_NEAR(gradient[2999] * 5000 * 3000 / 1e4, 1.028, 0.0005);
  EXPECT_LE(gradient[2079], 0.001);
  EXPECT_GT(gradient[2078], 0.001);
}

TEST(Memory, GradientDescentWithNoiseFallsWithTheTailsExponent) {
  struct Range {
    double beta, first, last;
  };
  // Lighter tails take longer until the law holds.
  for (const auto& [beta, first, last] : {Range{1.5, 20, 320}, {2, 20, 320}, {3, 100, 2000}}) {
    const MemoryTask task(4000, 1000, beta, 0.1);
    const std::vector<double> losses = memory_gradient_run(task, 1 / task.frequency(0), std::llround(last));
    std::vector<double> x, y;
    for (const double t : log_spaced(first, last, 9)) {
      x.push_back(std::round(t));
      y.push_back(losses[static_cast<std::size_t>(std::round(t)) - 1]);
    }
    EXPECT_NEAR(log_slope(x, y), -(1 - 1 / beta), 0.1 * (1 - 1 / beta)) << "beta " << beta;
  }
}

}  // namespace
}  // namespace spectrain::lab
