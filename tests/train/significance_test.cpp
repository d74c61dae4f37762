#include "train/significance.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "train/scaling_law.h"

namespace spectrain {
namespace {

// Values of SciPy: tests/train/significance_values.py.
TEST(Significance, StudentsTAgreesWithSciPy) {
  const struct {
    double t, degrees, p;
  } cases[] = {{0.5, 1, 0.70483276469913347},       {2.0, 2, 0.18350341907227397},
               {-3.25, 2.7, 0.055116684170644296},  {1.96, 1e6, 0.049996067585269852},
               {12.706, 1, 0.050000802358133187},   {0.001, 5, 0.99924078677219763},
               {40.0, 4.5, 6.4495652129209985e-07}, {2.776, 4, 0.050022778319976417}};
  // lgamma near 1e6 degrees has lost six digits.
  for (const auto& c : cases)
    EXPECT_NEAR(student_two_sided(c.t, c.degrees), c.p, 1e-12 * c.p * std::max(1.0, c.degrees)) << c.t;
  EXPECT_EQ(student_two_sided(0, 3), 1);
  EXPECT_EQ(student_two_sided(INFINITY, 3), 0);
  EXPECT_THROW(student_two_sided(1, 0), std::logic_error);
}

// The two-sided 5 % and 1 % points that every table of Student's distribution has, to their three decimals.
TEST(Significance, StudentsTAgreesWithThePrintedTables) {
  const struct {
    double degrees, five, one;
  } table[] = {{1, 12.706, 63.657}, {2, 4.303, 9.925},  {3, 3.182, 5.841},  {5, 2.571, 4.032},
               {10, 2.228, 3.169},  {30, 2.042, 2.750}, {120, 1.980, 2.617}};
  for (const auto& row : table) {
    EXPECT_GT(student_two_sided(row.five - 5e-4, row.degrees), 0.05);
    EXPECT_LT(student_two_sided(row.five + 5e-4, row.degrees), 0.05);
    EXPECT_GT(student_two_sided(row.one - 5e-4, row.degrees), 0.01);
    EXPECT_LT(student_two_sided(row.one + 5e-4, row.degrees), 0.01);
  }
}

TEST(Significance, IncompleteBeta) {
  const struct {
    double a, b, x, value;
  } cases[] = {{0.5, 0.5, 0.3, 0.36901011956554536},   {2, 3, 0.4, 0.5248},
               {1.35, 0.5, 0.9, 0.62587609279330791},  {50, 0.5, 0.99, 0.31730439787419729},
               {10, 20, 0.05, 8.1091218736459378e-07}, {0.5, 300, 1e-3, 0.5613457311299086}};
  for (const auto& c : cases) {
    EXPECT_NEAR(incomplete_beta(c.a, c.b, c.x), c.value, 2e-13 * std::max(c.value, 1e-6)) << c.a;
    EXPECT_NEAR(incomplete_beta(c.b, c.a, 1 - c.x), 1 - c.value, 2e-13) << c.a;
  }
  EXPECT_EQ(incomplete_beta(2, 3, 0), 0);
  EXPECT_EQ(incomplete_beta(2, 3, 1), 1);
  EXPECT_THROW(incomplete_beta(2, 3, 1.5), std::logic_error);
}

TEST(Significance, WelchAgreesWithSciPy) {
  const double adamw[] = {3.3412, 3.3398, 3.3425}, muon[] = {3.2791, 3.2776, 3.2802, 3.2786},
               soap[] = {3.2795, 3.2779};
  const auto near = [](const TTest& w, double t, double degrees, double p) {
    EXPECT_NEAR(w.t, t, 1e-9 * std::abs(t));
    EXPECT_NEAR(w.degrees, degrees, 1e-9 * degrees);
    EXPECT_NEAR(w.p, p, 1e-8 * p);
  };
  // The means agree to five digits, so their differences have lost as many.
  near(*welch_test(estimate(muon), estimate(adamw)), -65.658648893530767, 3.8002805358311944,
       6.0072961962238139e-07);
  near(*welch_test(estimate(soap), estimate(adamw)), -55.921615412529391, 2.619817379390792,
       4.1823691262413869e-05);
  near(*welch_test(estimate(muon), estimate(soap)), 0.18124337784136538, 1.9840473044197207,
       0.87300007991359962);
}

// With two degrees of freedom Student's distribution is elementary.
TEST(Significance, PairsInClosedForm) {
  const std::vector<double> differences{1, 2, 3}, one{1}, same{-1, -1}, none{0, 0};
  const TTest t = *paired_test(differences);
  EXPECT_NEAR(t.difference, 2, 1e-15);
  EXPECT_NEAR(t.t, 2 * std::sqrt(3), 1e-14);
  EXPECT_EQ(t.degrees, 2);
  EXPECT_NEAR(t.p, 1 - t.t / std::sqrt(2 + t.t * t.t), 1e-13);
  EXPECT_FALSE(paired_test(one));
  EXPECT_EQ(paired_test(same)->p, 0);
  EXPECT_EQ(paired_test(same)->difference, -1);
  EXPECT_EQ(paired_test(none)->p, 1);
}

TEST(Significance, WelchWithoutSpreadOrWithoutValues) {
  const double one[] = {3}, same[] = {3, 3}, other[] = {4, 4, 4};
  EXPECT_FALSE(welch_test(estimate(one), estimate(other)));
  EXPECT_FALSE(estimate(one).standard_error());
  EXPECT_TRUE(std::isnan(estimate({}).mean));
  EXPECT_EQ(welch_test(estimate(same), estimate(same))->p, 1);
  EXPECT_EQ(welch_test(estimate(same), estimate(other))->p, 0);
  EXPECT_EQ(welch_test(estimate(same), estimate(other))->difference, -1);
}

TEST(Significance, HolmsCorrection) {
  // The example of the literature: 0.005 x 4, 0.01 x 3, 0.03 x 2, and the last not below the one before.
  const double p[] = {0.01, 0.04, 0.03, 0.005};
  const auto corrected = holm(p);
  const double expected[] = {0.03, 0.06, 0.06, 0.02};
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(corrected[static_cast<std::size_t>(i)], expected[i], 1e-15);
  const double large[] = {0.7, 0.9};
  EXPECT_EQ(holm(large), (std::vector<double>{1, 1}));
  EXPECT_TRUE(holm({}).empty());
}

TEST(Significance, PooledDeviation) {
  const double a[] = {1, 2, 3}, b[] = {10, 14}, one[] = {7};
  const Estimate groups[] = {estimate(a), estimate(b), estimate(one)};
  EXPECT_NEAR(*pooled_deviation(groups), std::sqrt((2 * 1.0 + 1 * 8.0) / 3), 1e-15);
  EXPECT_FALSE(pooled_deviation(std::span(groups).subspan(2)));
}

// The table of the speedrun's optimization track: mean validation loss, n, and whether it counts as a record
// (the three of a single run near the target were marked invalid).
TEST(Significance, Track3VerdictsOfThePublishedRecords) {
  const struct {
    int number;
    double mean;
    std::size_t n;
    bool valid;
  } records[] = {
      {1, 3.2777, 1, false}, {2, 3.2790, 1, false},  {3, 3.2767, 1, false},  {4, 3.2741, 5, true},
      {5, 3.2782, 10, true}, {6, 3.2788, 20, true},  {7, 3.2752, 1, true},   {12, 3.2790, 20, true},
      {14, 3.2776, 4, true}, {20, 3.2790, 30, true}, {22, 3.2774, 4, true},  {28, 3.2790, 25, true},
      {35, 3.2767, 2, true}, {36, 3.2787, 10, true}, {40, 3.2788, 16, true}, {46, 3.2783, 8, true}};
  for (const auto& r : records)
    EXPECT_EQ(track3_holds(track3_margin(3.28, {r.n, r.mean, 0}), 0.004), r.valid) << r.number;
  // The borders that its rules name.
  const struct {
    std::size_t n;
    double border;
  } borders[] = {{1, 3.276}, {4, 3.278}, {16, 3.279}};
  for (const auto& b : borders) {
    EXPECT_TRUE(track3_holds(track3_margin(3.28, {b.n, b.border, 0}), 0.004));
    EXPECT_FALSE(track3_holds(track3_margin(3.28, {b.n, b.border + 1e-5, 0}), 0.004));
  }
  EXPECT_NEAR(track3_threshold(0.004, 2 * kTrack3Sigma), 0.008, 1e-15);
}

// Retuned Muon (#36) against the Muon before it (#12): 3250 and 3325 steps, 3.2787 (10) and 3.2790 (20).
TEST(Significance, Track3PairwiseCountsTheStepsSaved) {
  const Estimate tuned{10, 3.2787, 0}, before{20, 3.2790, 0};
  const double margin = track3_pairwise(tuned, 3250, before, 3325);
  EXPECT_NEAR(margin, (0.0003 + 0.0045 * 0.75) / std::sqrt(0.15), 1e-12);
  EXPECT_TRUE(track3_holds(margin, 0.004));
  EXPECT_FALSE(track3_holds(track3_pairwise(tuned, 3250, before, 3250), 0.004));
  EXPECT_NEAR(track3_pairwise(before, 3325, tuned, 3250), -margin, 1e-15);
}

TEST(ScalingLaw, IsFoundFromItsOwnPoints) {
  for (const double b : {0.05, 0.28, 0.5, 1.3}) {
    const double a = 2.5 * std::pow(1e8, b), c = 1.7;
    std::vector<double> tokens, losses;
    for (const double d : {2e7, 5e7, 1e8, 4e8, 1.6e9}) {
      tokens.push_back(d);
      losses.push_back(a * std::pow(d, -b) + c);
    }
    const auto law = fit_scaling_law(tokens, losses);
    ASSERT_TRUE(law);
    EXPECT_NEAR(law->b, b, 1e-5 * b);
    EXPECT_NEAR(law->c, c, 1e-3);
    EXPECT_NEAR(law->a / a, 1, 1e-3);
    EXPECT_LT(law->worst, 1e-7);
    EXPECT_NEAR(tokens_for(*law, losses[2]), 1e8, 1e2);
    EXPECT_TRUE(std::isinf(tokens_for(*law, law->c)));
  }
}

TEST(ScalingLaw, WithNoiseIsNearEnoughToSayASpeedUp) {
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 0.0013);
  std::vector<double> tokens, losses;
  for (const double d : {1e7, 2e7, 4e7, 8e7, 1.6e8}) {
    tokens.push_back(d);
    losses.push_back(400 * std::pow(d, -0.3) + 2 + noise(random));
  }
  const auto law = fit_scaling_law(tokens, losses);
  ASSERT_TRUE(law);
  // dD/D = dL / (b a D^-b): 0.0013 of loss is 0.3 % of the tokens here; a few of those.
  EXPECT_NEAR(tokens_for(*law, 400 * std::pow(6e7, -0.3) + 2) / 6e7, 1, 0.01);
}

// Losses that fall by more with every doubling: a free c would run away below zero, and b with it.
TEST(ScalingLaw, HasNoNegativeFloor) {
  const double tokens[] = {5120, 10240, 20480}, losses[] = {7.2248, 6.6866, 5.9981};
  const auto law = fit_scaling_law(tokens, losses);
  ASSERT_TRUE(law);
  EXPECT_EQ(law->c, 0);
  // Of SciPy's least_squares for a D^-b.
  EXPECT_NEAR(law->b, 0.1328316164858565, 1e-7);
  EXPECT_NEAR(law->worst, 0.06871649302620497, 1e-6);
}

TEST(ScalingLaw, NeedsThreeBudgetsAndLossesThatFall) {
  const double tokens[] = {1, 2, 4}, same[] = {2, 2, 2}, rising[] = {3, 4, 5}, falling[] = {5, 4, 3.5};
  EXPECT_FALSE(fit_scaling_law(same, falling));
  EXPECT_FALSE(fit_scaling_law(std::span(tokens).first(2), std::span(falling).first(2)));
  EXPECT_FALSE(fit_scaling_law(tokens, rising));
  EXPECT_TRUE(fit_scaling_law(tokens, falling));
  EXPECT_THROW(fit_scaling_law(tokens, std::span(falling).first(2)), std::logic_error);
}

}  // namespace
}  // namespace spectrain
