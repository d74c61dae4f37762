#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace spectrain {

// Whether two groups of final losses differ by more than the noise between seeds.

struct Estimate {
  std::size_t n = 0;
  double mean = 0;       // NaN when n = 0
  double deviation = 0;  // of the sample: sqrt(sum (x - mean)^2 / (n - 1)); 0 when n < 2
  // deviation / sqrt(n); one value alone has none.
  std::optional<double> standard_error() const;
};
Estimate estimate(std::span<const double> values);

// I_x(a, b) = B(x; a, b) / B(a, b), the regularised incomplete beta function, a, b > 0, 0 <= x <= 1, to about
// 1e-13: a continued fraction evaluated from its front by Lentz's method (DLMF 8.17.22).
double incomplete_beta(double a, double b, double x);

// P(|T| >= |t|) for Student's t with `degrees` > 0 (not necessarily whole) degrees of freedom:
// I_x(degrees / 2, 1 / 2) with x = degrees / (degrees + t^2).
double student_two_sided(double t, double degrees);

// Welch (1947): t = (mean_a - mean_b) / sqrt(s_a^2/n_a + s_b^2/n_b), with the degrees of freedom of
// Satterthwaite; the variances need not be equal. Empty where a group has fewer than two values. Two groups
// without any spread: p = 1 where their means are equal, otherwise 0.
struct TTest {
  double difference = 0, t = 0, degrees = 0;
  double p = 1;  // two-sided
};
std::optional<TTest> welch_test(const Estimate& a, const Estimate& b);

// Student (1908): t = mean / (s / sqrt(n)) of the differences of runs that share a seed, n - 1 degrees. Where
// a seed moves both runs alike, as order of data and first weights do, this sees differences that Welch's
// test does not. Empty with fewer than two differences; without any spread p as above.
std::optional<TTest> paired_test(std::span<const double> differences);

// Holm (1979): p values such that rejecting those <= alpha keeps the chance of any false rejection in the
// family below alpha. Smallest of m times m, next times m - 1 and so on, made ascending, at most 1; in the
// order given.
std::vector<double> holm(std::span<const double> p);

// sqrt(sum (n_i - 1) s_i^2 / sum (n_i - 1)): the deviation between seeds where all groups share one. Empty
// where no group has two values.
std::optional<double> pooled_deviation(std::span<const Estimate> groups);

// The rule of the modded-nanogpt speedrun's optimization track (records/track_3_optimization), a one-sided z
// test: the threshold 0.004 belongs to its deviation between seeds of 0.0013 (z = 3.08, p = 0.001) and grows
// with the deviation.
constexpr double kTrack3Sigma = 0.0013;
constexpr double kTrack3LossPerStep = 0.0045 / 100;         // what a step is worth near the end of its runs
double track3_threshold(double threshold, double sigma);    // threshold * sigma / kTrack3Sigma
double track3_margin(double target, const Estimate& runs);  // (target - mean) sqrt(n)
// How far `a` is below `b`: (mean_b - mean_a + 0.0045 (steps_b - steps_a) / 100) / sqrt(1/n_a + 1/n_b)
double track3_pairwise(const Estimate& a, double steps_a, const Estimate& b, double steps_b);

// margin >= threshold, but for rounding: 3.28 - 3.279 is a little less than 0.001.
bool track3_holds(double margin, double threshold);

}  // namespace spectrain
