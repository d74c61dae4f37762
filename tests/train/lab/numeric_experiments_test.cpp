#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>

#include "kernels/error.h"
#include "tests/train/lab/check_outcome.h"
#include "tests/train/scratch_directory.h"
#include "train/lab/configured_experiment.h"
#include "train/lab/own_rule.h"
#include "train/lab/quadratic.h"

// The numeric experiments as configs/lab sets them up, in a smaller form: their verdicts come out, and are
// other ones where the physics is broken.

namespace spectrain::lab {
namespace {

using testing::HasSubstr;

class NumericExperiments : public testing::Test {
 protected:
  Outcome run(const std::string& id, const std::string& options) {
    put_contents(dir_ / "changed.yaml",
                 "base: " SPECTRAIN_SOURCE_DIR "/configs/lab/" + id + ".yaml\nid: " + id + "\n" + options);
    const ConfiguredExperiment e = read_experiment(dir_ / "changed.yaml", true);
    const Surroundings s{*backend_, true, 1, "", [](const std::string&) {}};
    Outcome out = e.experiment->run(s);
    check_complete(*e.experiment, out, options.find("update:") == std::string::npos);
    return out;
  }
  std::map<std::string, Verdict> verdicts(const std::string& id, const std::string& options) {
    std::map<std::string, Verdict> result;
    for (const ClaimResult& c : run(id, options).claims)
      result[c.claim.id.substr(c.claim.id.find('.') + 1)] = c.verdict();
    return result;
  }

  ScratchDirectory dir_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

constexpr Verdict kHolds = Verdict::holds, kPart = Verdict::holds_in_part, kNot = Verdict::does_not_hold;
using Verdicts = std::map<std::string, Verdict>;

TEST_F(NumericExperiments, OneStepThreshold) {
  EXPECT_EQ(verdicts("e7", "draws: 3\n"), (Verdicts{{"threshold", kHolds}, {"larger", kNot}}));
  EXPECT_NE(verdicts("e7", "draws: 3\nupdate: gradient\n")["threshold"], kHolds);
  EXPECT_NE(verdicts("e7", "draws: 3\nupdate: newton_schulz\n")["threshold"], kHolds)
      << "the bound is met exactly by singular values of 1 only";
}

TEST_F(NumericExperiments, LongRunStability) {
  EXPECT_EQ(verdicts("e8", ""), (Verdicts{{"bounded", kHolds}, {"trains", kNot}}));
  EXPECT_NE(verdicts("e8", "update: gradient\n")["bounded"], kHolds);
}

TEST_F(NumericExperiments, KroneckerCurvature) {
  const std::string small = "rows: 12\ncols: 20\nquick: {draws: 6, searches: 1, target: 1e-3, grid: 5}\n";
  EXPECT_EQ(verdicts("e9", small)["first"], kHolds);
  EXPECT_EQ(verdicts("e9", small + "update: gradient\n")["first"], kPart)
      << "the formula holds for any direction";
}

TEST_F(NumericExperiments, MemoryNoiseless) {
  const std::string small = "quick: {normalized_grid: 6}\n";
  EXPECT_EQ(verdicts("e11", small), (Verdicts{{"muon", kHolds}, {"gradient", kHolds}, {"only", kNot}}));
  EXPECT_NE(verdicts("e11", small + "update: gradient\n")["muon"], kHolds);
  EXPECT_NE(verdicts("e11", small + "update: normalized\n")["muon"], kHolds);
}

TEST_F(NumericExperiments, MemoryImbalance) {
  const Verdicts found = verdicts("e12", "quick: {per_group: 6}\n");
  EXPECT_EQ(found.at("balanced"), kHolds);
  EXPECT_EQ(found.size(), 3u);
}

TEST_F(NumericExperiments, MemoryScaling) {
  const std::string small = "doublings: 3\nmuon_groups: 20\n";
  EXPECT_EQ(verdicts("e13", small)["gradient"], kHolds);
  EXPECT_EQ(verdicts("e13", small)["any"], kNot);
  EXPECT_EQ(verdicts("e13", small + "update: gradient\n")["muon"], kPart) << "slopes no longer are near -2";
}

TEST_F(NumericExperiments, MemoryAlignment) {
  EXPECT_EQ(verdicts("e14", ""), (Verdicts{{"aligned", kHolds}, {"stable", kHolds}}));
  EXPECT_NE(verdicts("e14", "update: gradient\n")["aligned"], kHolds);
}

TEST_F(NumericExperiments, CostAccounting) {
  // Seconds are not judged here: whatever else runs on the machine would be.
  Verdicts found = verdicts("e19", "quick: {width: 64, tokens: 64}\n");
  EXPECT_EQ(found["memory"], kNot);
  EXPECT_NE(found["svd"], kHolds);
  EXPECT_NE(found["bottleneck"], kHolds);
}

TEST_F(NumericExperiments, MomentumVariants) {
  EXPECT_EQ(verdicts("e20", "steps: 300\n"), (Verdicts{{"bound", kHolds}, {"tight", kNot}}));
}

TEST_F(NumericExperiments, DecayBound) {
  const std::string small = "quick: {rows: 8, cols: 9, steps: 800, long_steps: 800, own_steps: 100}\n";
  EXPECT_EQ(verdicts("e21", small), (Verdicts{{"bounded", kHolds}, {"unbounded", kHolds}, {"any", kPart}}));
  EXPECT_NE(verdicts("e21", small + "update: newton_schulz\n")["bounded"], kHolds) << "1.13 / lambda";
  EXPECT_NE(verdicts("e21", small + "update: gradient\n")["bounded"], kHolds);
}

TEST_F(NumericExperiments, CriticalBatch) {
  const std::string small =
      "quick: {rows: 3, cols: 4, small_lr: 0.01, large_lr: 0.05, most_batch: 256, seeds: 1}\n";
  EXPECT_EQ(verdicts("e22", small).size(), 2u);
}

TEST_F(NumericExperiments, AMatrixThatMuonLeavesToAdamWIsRefused) {
  try {
    const OwnRule rule(*backend_, plain_muon({}), Matrix(3, 40));
    FAIL() << "a matrix of 3 rows was taken";
  } catch (const RequestError& e) {
    EXPECT_THAT(e.what(), HasSubstr("[3, 40]"));
  }
}

// E7's formula and quadratic by hand: f along a line is a parabola whose minimum lies at half the threshold.
TEST(KroneckerQuadratic, ValueGradientAndCurvature) {
  const KroneckerQuadratic f(3, 4, 10, 100);
  const Matrix d = gaussian(3, 4, key_of(1, "d")), o = gaussian(3, 4, key_of(1, "o"));
  const double along = inner(f.gradient(d), o), bend = f.curvature(o), eta = 2 * along / bend;
  Matrix moved = d;
  add_scaled(moved, -eta, o);
  EXPECT_NEAR(f.value(moved), f.value(d), 1e-13 * (f.value(d) + eta * eta * bend));
  EXPECT_NEAR(f.a.back(), 0.1, 1e-15);
  EXPECT_NEAR(f.b.back(), 0.01, 1e-16);
}

// The program's float32 rule takes the step of the float64 factor.
TEST(OwnRule, SpectralDescentIsThePolarFactor) {
  const auto backend = make_cpu_backend();
  const Matrix w = gaussian(24, 40, key_of(1, "w")), g = gaussian(24, 40, key_of(1, "g"));
  OwnRule rule(*backend, plain_spectral_descent(), w);
  rule.step(g, 0.5);
  Matrix expected = w;
  add_scaled(expected, -0.5, polar(g).factor);
  // The factor's error is eps times the ratio of the largest singular value to the smallest, here about 8.
  EXPECT_LT(largest_difference(rule.weight(), expected), 100 * 0x1p-24 * 4);
  OwnRule muon(*backend, plain_muon(keller_newton_schulz(5)), w);
  muon.step(g, 0.5);
  expected = w;
  add_scaled(expected, -0.5, newton_schulz(g, keller_newton_schulz(5)));
  EXPECT_LT(largest_difference(muon.weight(), expected), 1000 * 0x1p-24 * 4);
}

}  // namespace
}  // namespace spectrain::lab
