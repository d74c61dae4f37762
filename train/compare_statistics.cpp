#include "train/compare_statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "kernels/error.h"

namespace spectrain {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kLevel = 0.05;

// Seeds that every point of the variant has: those it was swept with. The best point has more, and its mean
// over more seeds would not be comparable with the others'.
std::set<std::uint64_t> sweep_seeds(const ComparedRuns& results, const std::vector<PointStatistics>& points) {
  std::set<std::uint64_t> common;
  for (std::size_t i = 0; i < points.size(); ++i) {
    std::set<std::uint64_t> seeds;
    for (const std::size_t r : points[i].runs)
      if (i == 0 || common.contains(results.runs[r].seed)) seeds.insert(results.runs[r].seed);
    common = std::move(seeds);
  }
  return common;
}

std::vector<PointStatistics> points_of(const ComparedRuns& results, const std::string& variant) {
  std::vector<PointStatistics> points;
  for (std::size_t r = 0; r < results.runs.size(); ++r) {
    if (results.runs[r].variant != variant) continue;
    const auto same = [&](const PointStatistics& p) { return p.point == results.runs[r].point; };
    auto found = std::find_if(points.begin(), points.end(), same);
    if (found == points.end()) {
      points.push_back({});
      found = points.end() - 1;
      found->point = results.runs[r].point;
    }
    found->runs.push_back(r);
  }
  const auto seeds = sweep_seeds(results, points);
  for (PointStatistics& p : points) {
    std::stable_sort(p.runs.begin(), p.runs.end(), [&](std::size_t i, std::size_t j) {
      return results.runs[i].seed < results.runs[j].seed;
    });
    std::vector<double> finite, swept;
    for (const std::size_t r : p.runs) {
      const double loss = final_loss(results.runs[r]);
      // A sweep cut short may leave no seed that all points have.
      if (seeds.empty() || seeds.contains(results.runs[r].seed)) swept.push_back(loss);
      if (diverged(results.runs[r]))
        ++p.diverged;
      else
        finite.push_back(loss);
    }
    p.loss = estimate(finite);
    // Not the mean of estimate(): infinite losses give it no deviation.
    p.sweep_mean = 0;
    for (const double loss : swept) p.sweep_mean += loss / static_cast<double>(swept.size());
  }
  return points;
}

// Runs of a point that did not diverge.
std::vector<const ComparedRun*> whole_runs(const ComparedRuns& results, const PointStatistics& point) {
  std::vector<const ComparedRun*> runs;
  for (const std::size_t r : point.runs)
    if (!diverged(results.runs[r])) runs.push_back(&results.runs[r]);
  return runs;
}

// What a run of the best point costs, as a mean over its runs.
void add_costs(const std::vector<const ComparedRun*>& runs, VariantStatistics& v) {
  const auto n = static_cast<double>(runs.size());
  double optimizer_flops = 0;
  for (const ComparedRun* run : runs) {
    const ValidationPoint& end = run->validation.back();
    v.steps += end.step / n;
    v.tokens += end.tokens / n;
    v.seconds += end.seconds / n;
    v.flops += flops_at(*run, end) / n;
    optimizer_flops += end.step * run->optimizer_flops_per_step / n;
    if (end.step > 0) v.seconds_per_step += end.seconds / end.step / n;
    if (run->parameters > 0)
      v.state_bytes_per_parameter += run->optimizer_bytes / static_cast<double>(run->parameters) / n;
  }
  if (v.flops > 0) v.optimizer_flops_share = optimizer_flops / v.flops;
}

ToTarget to_target(const std::vector<const ComparedRun*>& runs, std::size_t of, double target) {
  ToTarget out;
  out.of = of;
  for (const ComparedRun* run : runs) {
    const auto at = first_crossing(run->validation, target);
    if (!at) continue;
    ++out.reached;
    out.steps += at->step;
    out.tokens += at->tokens;
    out.seconds += at->seconds;
    out.flops += flops_at(*run, *at);
  }
  if (out.reached == 0) return out;
  for (double* sum : {&out.steps, &out.tokens, &out.seconds, &out.flops})
    *sum /= static_cast<double>(out.reached);
  return out;
}

VariantStatistics variant_statistics(const ComparedRuns& results, std::size_t index) {
  VariantStatistics v;
  v.variant = index;
  v.points = points_of(results, results.variants[index].name);
  for (std::size_t i = 0; i < v.points.size(); ++i) {
    if (v.points[i].loss.n == 0) continue;
    // Where every point diverged for a sweep seed, the seeds that did not still say which is best.
    const auto better = [](const PointStatistics& a, const PointStatistics& b) {
      return a.sweep_mean != b.sweep_mean ? a.sweep_mean < b.sweep_mean : a.loss.mean < b.loss.mean;
    };
    if (!v.best || better(v.points[i], v.points[*v.best])) v.best = i;
  }
  if (!v.best) return v;
  const PointStatistics& best = v.points[*v.best];
  v.loss = best.loss;
  v.diverged = best.diverged;
  add_costs(whole_runs(results, best), v);
  return v;
}

// The mean of the validation curves at the steps that all runs have.
std::vector<ValidationPoint> mean_curve(const std::vector<const ComparedRun*>& runs) {
  std::map<double, std::pair<ValidationPoint, std::size_t>> sums;
  for (const ComparedRun* run : runs)
    for (const ValidationPoint& p : run->validation) {
      auto& [sum, count] = sums[p.step];
      sum.tokens += p.tokens;
      sum.seconds += p.seconds;
      sum.loss += p.loss;
      ++count;
    }
  std::vector<ValidationPoint> curve;
  for (const auto& [step, entry] : sums) {
    const auto& [sum, count] = entry;
    const auto n = static_cast<double>(count);
    if (count == runs.size()) curve.push_back({step, sum.tokens / n, sum.seconds / n, sum.loss / n});
  }
  return curve;
}

std::vector<BudgetLoss> baseline_budgets(const ComparedRuns& results, const VariantStatistics& baseline) {
  std::map<double, std::map<GridPoint, std::vector<double>>> losses;
  for (const ComparedRun& run : results.horizons)
    if (!diverged(run)) losses[final_tokens(run)][run.point].push_back(final_loss(run));
  losses.erase(baseline.tokens);
  std::vector<BudgetLoss> budgets = {{baseline.tokens, baseline.loss.mean, baseline.points.size()}};
  for (const auto& [tokens, points] : losses) {
    BudgetLoss best{tokens, kInfinity, points.size()};
    for (const auto& [point, values] : points) best.loss = std::min(best.loss, estimate(values).mean);
    budgets.push_back(best);
  }
  std::sort(budgets.begin(), budgets.end(),
            [](const BudgetLoss& a, const BudgetLoss& b) { return a.tokens < b.tokens; });
  return budgets;
}

std::optional<ScalingLaw> law_of(const std::vector<BudgetLoss>& budgets) {
  std::vector<double> tokens, losses;
  for (const BudgetLoss& b : budgets) {
    tokens.push_back(b.tokens);
    losses.push_back(b.loss);
  }
  return fit_scaling_law(tokens, losses);
}

SpeedUp speed_up(const ComparedRuns& results, const ComparisonStatistics& all, const VariantStatistics& v) {
  if (!all.baseline || !v.best) return {};
  const VariantStatistics& base = all.ranking[*all.baseline];
  if (v.variant == base.variant) return {SpeedUp::Kind::baseline, 1};
  if (!base.best) return {};
  if (all.law) {
    const double needed = tokens_for(*all.law, v.loss.mean);
    if (std::isinf(needed)) return {SpeedUp::Kind::beyond, needed};
    return {SpeedUp::Kind::fit, needed / v.tokens};
  }
  const bool ahead = v.loss.mean <= base.loss.mean;
  const VariantStatistics& early = ahead ? v : base;
  const VariantStatistics& late = ahead ? base : v;
  const auto curve = mean_curve(whole_runs(results, early.points[*early.best]));
  const auto at = first_crossing(curve, late.loss.mean);
  if (!at || !(at->tokens > 0) || !(v.tokens > 0)) return {};
  if (ahead) return {SpeedUp::Kind::at_least, base.tokens / at->tokens};
  return {SpeedUp::Kind::at_most, at->tokens / v.tokens};
}

// Final losses of a minus those of b, for the seeds that both have.
std::vector<double> paired_differences(const ComparedRuns& results, const VariantStatistics& a,
                                       const VariantStatistics& b) {
  std::vector<double> differences;
  for (const std::size_t i : a.points[*a.best].runs)
    for (const std::size_t j : b.points[*b.best].runs) {
      const ComparedRun &left = results.runs[i], &right = results.runs[j];
      if (left.seed == right.seed && !diverged(left) && !diverged(right))
        differences.push_back(final_loss(left) - final_loss(right));
    }
  return differences;
}

Comparison compare(const ComparedRuns& results, const ComparisonStatistics& all, std::size_t a,
                   std::size_t b) {
  const VariantStatistics &left = all.ranking[a], &right = all.ranking[b];
  Comparison c;
  c.a = a;
  c.b = b;
  c.difference = left.loss.mean - right.loss.mean;
  c.test = results.rule == SignificanceRule::paired ? paired_test(paired_differences(results, left, right))
                                                    : welch_test(left.loss, right.loss);
  if (c.test) c.difference = c.test->difference;
  c.margin = track3_pairwise(left.loss, left.steps, right.loss, right.steps);
  return c;
}

// Each variant against the baseline and each against the next of the ranking: the family of Holm's
// correction.
void add_comparisons(const ComparedRuns& results, ComparisonStatistics& all) {
  const auto add = [&](std::size_t a, std::size_t b) {
    for (std::size_t i = 0; i < all.comparisons.size(); ++i)
      if ((all.comparisons[i].a == a && all.comparisons[i].b == b) ||
          (all.comparisons[i].a == b && all.comparisons[i].b == a))
        return i;
    all.comparisons.push_back(compare(results, all, a, b));
    return all.comparisons.size() - 1;
  };
  const auto has_loss = [&](std::size_t i) { return all.ranking[i].best.has_value(); };
  if (all.baseline && has_loss(*all.baseline))
    for (std::size_t i = 0; i < all.ranking.size(); ++i)
      if (i != *all.baseline && has_loss(i)) all.ranking[i].against_baseline = add(i, *all.baseline);
  for (std::size_t i = 0; i + 1 < all.ranking.size(); ++i)
    if (has_loss(i) && has_loss(i + 1)) all.ranking[i].against_next = add(i, i + 1);
}

void judge(SignificanceRule rule, ComparisonStatistics& all) {
  using Verdict = Comparison::Verdict;
  std::vector<double> p;
  for (const Comparison& c : all.comparisons)
    if (c.test) p.push_back(c.test->p);
  const std::vector<double> corrected = holm(p);
  std::size_t next = 0;
  for (Comparison& c : all.comparisons) {
    if (c.test) c.p = corrected[next++];
    if (rule != SignificanceRule::track3) {
      if (c.p)
        c.verdict = *c.p > kLevel ? Verdict::open : c.difference < 0 ? Verdict::lower : Verdict::higher;
    } else if (all.sigma) {
      c.verdict = track3_holds(*c.margin, all.threshold)    ? Verdict::lower
                  : track3_holds(-*c.margin, all.threshold) ? Verdict::higher
                                                            : Verdict::open;
    }
  }
}

void add_sigma(const ComparedRuns& results, ComparisonStatistics& all) {
  std::vector<Estimate> groups;
  for (const VariantStatistics& v : all.ranking) groups.push_back(v.loss);
  if (results.sigma > 0) {
    all.sigma = results.sigma;
  } else {
    all.sigma = pooled_deviation(groups);
    for (const Estimate& g : groups) all.sigma_degrees += g.n > 1 ? g.n - 1 : 0;
  }
  if (all.sigma) all.threshold = track3_threshold(results.threshold, *all.sigma);
}

void rank(ComparisonStatistics& all, const ComparedRuns& results) {
  const auto kind = [](const VariantStatistics& v) { return !v.best ? 2 : v.diverged > 0 ? 1 : 0; };
  std::stable_sort(all.ranking.begin(), all.ranking.end(),
                   [&](const VariantStatistics& a, const VariantStatistics& b) {
                     if (kind(a) != kind(b)) return kind(a) < kind(b);
                     return a.best && a.loss.mean < b.loss.mean;
                   });
  for (std::size_t i = 0; i < all.ranking.size(); ++i)
    if (results.variants[all.ranking[i].variant].name == results.baseline) all.baseline = i;
}

}  // namespace

bool diverged(const ComparedRun& run) {
  return run.diverged || run.validation.empty() || !std::isfinite(run.validation.back().loss);
}
double final_loss(const ComparedRun& run) { return diverged(run) ? kInfinity : run.validation.back().loss; }
double final_steps(const ComparedRun& run) { return run.validation.empty() ? 0 : run.validation.back().step; }
double final_tokens(const ComparedRun& run) {
  return run.validation.empty() ? 0 : run.validation.back().tokens;
}
double flops_at(const ComparedRun& run, const ValidationPoint& at) {
  return at.tokens * run.flops_per_token + at.step * run.optimizer_flops_per_step;
}

std::vector<ValidationPoint> mean_validation(const ComparedRuns& results, const VariantStatistics& variant) {
  if (!variant.best) return {};
  return mean_curve(whole_runs(results, variant.points[*variant.best]));
}

ComparisonStatistics compare_statistics(const ComparedRuns& results) {
  if (results.runs.empty())
    throw RequestError(fmt::format(
        "no run of the comparison '{}' is finished yet, so there is nothing to report", results.name));
  ComparisonStatistics all;
  for (std::size_t i = 0; i < results.variants.size(); ++i)
    all.ranking.push_back(variant_statistics(results, i));
  rank(all, results);
  if (!all.baseline)
    throw RequestError(fmt::format("the baseline '{}' is none of the variants of the comparison '{}'",
                                   results.baseline, results.name));
  add_sigma(results, all);
  const VariantStatistics baseline = all.ranking[*all.baseline];
  all.target_given = results.target > 0;
  all.target = all.target_given ? results.target : baseline.loss.mean;
  if (baseline.best) all.budgets = baseline_budgets(results, baseline);
  all.law = law_of(all.budgets);
  for (VariantStatistics& v : all.ranking) {
    v.speed_up = speed_up(results, all, v);
    if (!v.best) continue;
    const PointStatistics& best = v.points[*v.best];
    v.to_target = to_target(whole_runs(results, best), best.runs.size(), all.target);
    if (!all.target_given || !all.sigma) continue;
    v.target_margin = track3_margin(all.target, v.loss);
    v.claims_target = track3_holds(*v.target_margin, all.threshold);
  }
  add_comparisons(results, all);
  judge(results.rule, all);
  return all;
}

}  // namespace spectrain
