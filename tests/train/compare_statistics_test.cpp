#include "train/compare_statistics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/error.h"
#include "tests/train/compared_example.h"
#include "tests/train/scratch_directory.h"

namespace spectrain {
namespace {

using testing::HasSubstr;
using Verdict = Comparison::Verdict;

const VariantStatistics& named(const ComparedRuns& results, const ComparisonStatistics& all,
                               const std::string& name) {
  for (const VariantStatistics& v : all.ranking)
    if (results.variants[v.variant].name == name) return v;
  throw std::logic_error("no such variant");
}

TEST(CompareStatistics, BestPointsRankingAndMeans) {
  const ComparedRuns results = example_results();
  const auto all = compare_statistics(results);
  ASSERT_EQ(all.ranking.size(), 3u);
  const char* order[] = {"muon", "adamw", "sgd"};
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(results.variants[all.ranking[i].variant].name, order[i]);
  EXPECT_EQ(all.baseline, 1u);
  const VariantStatistics& muon = all.ranking[0];
  EXPECT_EQ(muon.points[*muon.best].point, (GridPoint{{"lr", 0.02}}));
  EXPECT_EQ(muon.loss.n, 3u);
  EXPECT_NEAR(muon.loss.mean, 3.91, 1e-12);
  EXPECT_NEAR(*muon.loss.standard_error(), 0.01 / std::sqrt(3), 1e-12);
  EXPECT_FALSE(all.ranking[2].loss.standard_error());
  // Pooled over muon and adamw: both have a deviation of 0.01; sgd has one run.
  EXPECT_NEAR(*all.sigma, 0.01, 1e-12);
  EXPECT_EQ(all.sigma_degrees, 4u);
}

TEST(CompareStatistics, ThePointIsChosenBySeedsThatAllPointsHave) {
  ComparedRuns results = example_results();
  // Two unlucky final seeds: another point's single seed is below the mean now, but not below the seed they
  // share.
  for (ComparedRun& run : results.runs)
    if (run.variant == "muon" && run.seed > 1) run.validation.back().loss = 3.99;
  const auto all = compare_statistics(results);
  const VariantStatistics& muon = named(results, all, "muon");
  EXPECT_EQ(muon.points[*muon.best].point, (GridPoint{{"lr", 0.02}}));
  EXPECT_NEAR(muon.loss.mean, (3.90 + 2 * 3.99) / 3, 1e-12);
}

TEST(CompareStatistics, DivergedRunsAreInfinitelyBad) {
  ComparedRuns results = example_results();
  auto all = compare_statistics(results);
  const VariantStatistics& muon = named(results, all, "muon");
  ASSERT_EQ(muon.points.size(), 3u);
  EXPECT_EQ(muon.points[2].diverged, 1u);
  EXPECT_TRUE(std::isinf(muon.points[2].sweep_mean));
  EXPECT_EQ(muon.points[2].loss.n, 0u);
  // A final run that diverges puts the variant behind those that never do, whatever its other runs say.
  results.runs[8] = diverged_run("muon", 0.02, 2);
  all = compare_statistics(results);
  EXPECT_EQ(results.variants[all.ranking[2].variant].name, "muon");
  EXPECT_EQ(all.ranking[2].loss.n, 2u);
  EXPECT_EQ(all.ranking[2].diverged, 1u);
  EXPECT_EQ(all.ranking[2].to_target.of, 3u);
  // A variant without any final loss is last and takes part in no test.
  for (ComparedRun& run : results.runs)
    if (run.variant == "muon") run.validation.back().loss = NAN;
  all = compare_statistics(results);
  EXPECT_FALSE(all.ranking[2].best);
  EXPECT_FALSE(all.ranking[2].against_baseline);
  EXPECT_EQ(all.comparisons.size(), 1u);
}

TEST(CompareStatistics, ToTargetByInterpolation) {
  ComparedRuns results = example_results();
  results.target = 4.2;
  auto all = compare_statistics(results);
  EXPECT_TRUE(all.target_given);
  const ToTarget& muon = named(results, all, "muon").to_target;
  // Between step 75 (4.5) and step 100 (the final loss).
  double steps = 0;
  for (const double final_value : {3.90, 3.91, 3.92}) steps += (75 + 25 * 0.3 / (4.5 - final_value)) / 3;
  EXPECT_EQ(muon.reached, 3u);
  EXPECT_NEAR(muon.steps, steps, 1e-9);
  EXPECT_NEAR(muon.tokens, 1000 * steps, 1e-6);
  EXPECT_NEAR(muon.seconds, 0.1 * steps, 1e-9);
  EXPECT_NEAR(muon.flops, steps * (1000 * 1e6 + 1e8), 1e0);
  EXPECT_EQ(named(results, all, "sgd").to_target.reached, 0u);
  // Only the runs that got there are averaged, and how many they were is said.
  results.target = 4.005;
  all = compare_statistics(results);
  EXPECT_EQ(named(results, all, "adamw").to_target.reached, 1u);
  EXPECT_EQ(named(results, all, "adamw").to_target.of, 3u);
  EXPECT_NEAR(named(results, all, "adamw").to_target.steps, 75 + 25 * (4.5 - 4.005) / 0.5, 1e-9);
}

TEST(CompareStatistics, Costs) {
  const ComparedRuns results = example_results();
  const auto all = compare_statistics(results);
  const VariantStatistics& muon = all.ranking[0];
  EXPECT_NEAR(muon.flops, 100000 * 1e6 + 100 * 1e8, 1);
  EXPECT_NEAR(muon.optimizer_flops_share, 1e10 / 1.1e11, 1e-12);
  EXPECT_NEAR(muon.state_bytes_per_parameter, 8, 1e-12);
  EXPECT_NEAR(muon.seconds_per_step, 0.1, 1e-12);
  EXPECT_NEAR(muon.steps, 100, 1e-12);
}

TEST(CompareStatistics, WelchVerdictsAreCorrectedOverTheFamily) {
  ComparedRuns results = example_results();
  results.runs.push_back(example_run("sgd", 0.1, 2, 4.42));
  results.runs.push_back(example_run("sgd", 0.1, 3, 4.41));
  const auto all = compare_statistics(results);
  // muon-adamw (also neighbours: counted once) and adamw-sgd.
  ASSERT_EQ(all.comparisons.size(), 2u);
  const Comparison& muon = all.comparisons[*all.ranking[0].against_baseline];
  EXPECT_NEAR(muon.difference, -0.10, 1e-12);
  EXPECT_EQ(all.ranking[0].against_next, all.ranking[0].against_baseline);
  // Equal deviations 0.01 and n = 3: t = -0.1 / (0.01 sqrt(2/3)), 4 degrees.
  EXPECT_NEAR(muon.test->t, -10 / std::sqrt(2.0 / 3), 1e-9);
  EXPECT_NEAR(muon.test->degrees, 4, 1e-9);
  EXPECT_NEAR(muon.test->p, student_two_sided(muon.test->t, 4), 1e-12);
  // Of the two p values the larger is left as it is, the smaller doubled.
  const Comparison& sgd = all.comparisons[*all.ranking[2].against_baseline];
  EXPECT_LT(sgd.test->p, muon.test->p);
  EXPECT_EQ(*sgd.p, 2 * sgd.test->p);
  EXPECT_EQ(*muon.p, muon.test->p);
  EXPECT_EQ(muon.verdict, Verdict::lower);
  EXPECT_EQ(sgd.verdict, Verdict::higher);
}

// Seeds that move both rules alike hide a difference from Welch's test, not from one of pairs.
TEST(CompareStatistics, PairsAreOfOneSeed) {
  ComparedRuns results = example_results();
  std::erase_if(results.runs, [](const ComparedRun& r) { return r.variant == "sgd"; });
  results.runs.push_back(example_run("sgd", 0.1, 3, 4.035));  // adamw 4.02
  results.runs.push_back(example_run("sgd", 0.1, 1, 4.025));  // 4.01
  results.runs.push_back(example_run("sgd", 0.1, 2, 4.014));  // 4.00
  const auto verdict_of_sgd = [&] {
    const auto all = compare_statistics(results);
    return all.comparisons[*all.ranking[2].against_baseline];
  };
  EXPECT_EQ(verdict_of_sgd().verdict, Verdict::open);
  results.rule = SignificanceRule::paired;
  const Comparison pairs = verdict_of_sgd();
  EXPECT_EQ(pairs.verdict, Verdict::higher);
  EXPECT_NEAR(pairs.difference, 0.044 / 3, 1e-12);
  const double differences[] = {0.015, 0.014, 0.015};
  EXPECT_NEAR(pairs.test->t, paired_test(differences)->t, 1e-6);
  // A seed that only one of them has is no pair.
  results.runs.push_back(example_run("sgd", 0.1, 9, 5));
  EXPECT_NEAR(verdict_of_sgd().difference, 0.044 / 3, 1e-12);
}

TEST(CompareStatistics, OneSeedGivesNoVerdict) {
  const ComparedRuns results = example_results();
  const auto all = compare_statistics(results);
  EXPECT_EQ(all.comparisons[*all.ranking[2].against_baseline].verdict, Verdict::unknown);
  EXPECT_FALSE(all.comparisons[*all.ranking[2].against_baseline].p);
}

TEST(CompareStatistics, Track3RuleWithSigmaGivenOrEstimated) {
  ComparedRuns results = example_results();
  results.rule = SignificanceRule::track3;
  results.target = 3.95;
  results.sigma = kTrack3Sigma;
  auto all = compare_statistics(results);
  EXPECT_NEAR(all.threshold, 0.004, 1e-15);
  EXPECT_EQ(all.sigma_degrees, 0u);
  EXPECT_TRUE(all.ranking[0].claims_target);
  EXPECT_NEAR(*all.ranking[0].target_margin, 0.04 * std::sqrt(3), 1e-12);
  EXPECT_FALSE(all.ranking[1].claims_target);
  // Here a single seed is enough: the deviation comes from elsewhere.
  const Comparison& sgd = all.comparisons[*all.ranking[2].against_baseline];
  EXPECT_NEAR(*sgd.margin, -0.39 / std::sqrt(1 + 1.0 / 3), 1e-12);
  EXPECT_EQ(sgd.verdict, Verdict::higher);
  // Estimated: 0.01, so the threshold is 0.0308 and 0.04 sqrt(3) still holds.
  results.sigma = 0;
  all = compare_statistics(results);
  EXPECT_NEAR(all.threshold, 0.004 * 0.01 / 0.0013, 1e-12);
  EXPECT_TRUE(all.ranking[0].claims_target);
  // With more noise it does not hold.
  results.sigma = 0.1;
  all = compare_statistics(results);
  EXPECT_FALSE(all.ranking[0].claims_target);
  EXPECT_EQ(all.comparisons[*all.ranking[0].against_baseline].verdict, Verdict::open);
}

TEST(CompareStatistics, SpeedUpWithoutHorizonsIsABound) {
  const ComparedRuns results = example_results();
  const auto all = compare_statistics(results);
  const SpeedUp& muon = named(results, all, "muon").speed_up;
  EXPECT_EQ(muon.kind, SpeedUp::Kind::at_least);
  // Muon's mean curve, 4.5 at step 75 and 3.91 at 100, passes 4.01 at this step of 100.
  EXPECT_NEAR(muon.factor, 100 / (75 + 25 * (4.5 - 4.01) / (4.5 - 3.91)), 1e-9);
  const SpeedUp& sgd = named(results, all, "sgd").speed_up;
  EXPECT_EQ(sgd.kind, SpeedUp::Kind::at_most);
  EXPECT_NEAR(sgd.factor, (75 + 25 * (4.5 - 4.40) / (4.5 - 4.01)) / 100, 1e-9);
  EXPECT_EQ(named(results, all, "adamw").speed_up.kind, SpeedUp::Kind::baseline);
}

TEST(CompareStatistics, SpeedUpByTheBaselinesScalingLaw) {
  ComparedRuns results = example_results();
  // L = 2 + 2.01 (D / 1e5)^-0.5 goes through the baseline's 4.01 at 1e5 tokens.
  for (const double share : {0.25, 0.5, 2.0, 4.0})
    for (const double lr : {0.001, 0.0001}) {
      ComparedRun run = example_run("adamw", lr, 1, 2 + 2.01 * std::pow(share, -0.5) + (lr < 0.001 ? 1 : 0));
      for (ValidationPoint& p : run.validation) p.tokens *= share;
      results.horizons.push_back(run);
    }
  auto all = compare_statistics(results);
  ASSERT_TRUE(all.law);
  EXPECT_NEAR(all.law->b, 0.5, 1e-5);
  EXPECT_NEAR(all.law->c, 2, 1e-4);
  ASSERT_EQ(all.budgets.size(), 5u);
  EXPECT_EQ(all.budgets[0].tokens, 25000);
  EXPECT_NEAR(all.budgets[0].loss, 2 + 2.01 * 2, 1e-12);
  EXPECT_EQ(all.budgets[0].settings, 2u);
  const SpeedUp& muon = named(results, all, "muon").speed_up;
  EXPECT_EQ(muon.kind, SpeedUp::Kind::fit);
  EXPECT_NEAR(muon.factor, std::pow(2.01 / 1.91, 2), 1e-4);
  EXPECT_NEAR(named(results, all, "sgd").speed_up.factor, std::pow(2.01 / 2.40, 2), 1e-4);
  for (ComparedRun& run : results.runs)
    if (run.variant == "muon" && run.point[0].second == 0.02) run.validation.back().loss = 1.9;
  all = compare_statistics(results);
  EXPECT_EQ(named(results, all, "muon").speed_up.kind, SpeedUp::Kind::beyond);
}

TEST(CompareStatistics, RefusesNothingAndAnUnknownBaseline) {
  ComparedRuns results = example_results();
  results.baseline = "adam";
  EXPECT_THAT(message_of<RequestError>([&] { compare_statistics(results); }), HasSubstr("'adam'"));
  results.runs.clear();
  EXPECT_THAT(message_of<RequestError>([&] { compare_statistics(results); }), HasSubstr("no run"));
}

}  // namespace
}  // namespace spectrain
