#include "train/significance.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>

namespace spectrain {
namespace {

// The continued fraction 1 / (1 + d_1 / (1 + d_2 / ...)) of DLMF 8.17.22; converges fast for
// x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
  // Stands for zero where a denominator vanishes, so that the next one cancels it.
  constexpr double kTiny = 1e-300, kEnough = 1e-15;
  double c = 1, d = 0, below = 1;
  for (int i = 1; i < 10000; ++i) {
    const double m = std::floor(i / 2.0);
    const double coefficient = i % 2 == 0 ? m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
                                          : -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 + coefficient * d;
    if (std::abs(d) < kTiny) d = kTiny;
    d = 1 / d;
    c = 1 + coefficient / c;
    if (std::abs(c) < kTiny) c = kTiny;
    below *= c * d;
    if (std::abs(1 - c * d) < kEnough) break;
  }
  return 1 / below;
}

}  // namespace

std::optional<double> Estimate::standard_error() const {
  if (n < 2) return std::nullopt;
  return deviation / std::sqrt(static_cast<double>(n));
}

Estimate estimate(std::span<const double> values) {
  Estimate out;
  out.n = values.size();
  if (values.empty()) {
    out.mean = std::numeric_limits<double>::quiet_NaN();
    return out;
  }
  const auto n = static_cast<double>(values.size());
  out.mean = std::accumulate(values.begin(), values.end(), 0.0) / n;
  double squares = 0;
  for (const double v : values) squares += (v - out.mean) * (v - out.mean);
  if (values.size() > 1) out.deviation = std::sqrt(squares / (n - 1));
  return out;
}

double incomplete_beta(double a, double b, double x) {
  if (!(a > 0 && b > 0 && x >= 0 && x <= 1))
    throw std::logic_error("incomplete_beta: it needs a, b > 0 and 0 <= x <= 1");
  if (x == 0 || x == 1) return x;
  const double front =
      std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x));
  // I_x(a, b) = 1 - I_{1-x}(b, a): the side on which the fraction converges.
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double student_two_sided(double t, double degrees) {
  if (!(degrees > 0)) throw std::logic_error("student_two_sided: degrees of freedom must be positive");
  if (std::isnan(t)) return t;
  if (std::isinf(t)) return 0;
  return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t));
}

namespace {

// A difference with its variance.
TTest tested(double difference, double variance, double degrees) {
  TTest out{difference, 0, degrees, 1};
  if (variance == 0) {
    if (difference == 0) return out;
    out.t = std::copysign(std::numeric_limits<double>::infinity(), difference);
    out.p = 0;
    return out;
  }
  out.t = difference / std::sqrt(variance);
  out.p = student_two_sided(out.t, degrees);
  return out;
}

}  // namespace

std::optional<TTest> welch_test(const Estimate& a, const Estimate& b) {
  if (a.n < 2 || b.n < 2) return std::nullopt;
  const double variance_a = std::pow(*a.standard_error(), 2), variance_b = std::pow(*b.standard_error(), 2);
  const double variance = variance_a + variance_b, difference = a.mean - b.mean;
  if (variance == 0) return tested(difference, 0, static_cast<double>(a.n + b.n - 2));
  // As shares of the variance: squares of tiny variances would be zero.
  const double share_a = variance_a / variance, share_b = variance_b / variance;
  return tested(difference, variance,
                1 / (share_a * share_a / static_cast<double>(a.n - 1) +
                     share_b * share_b / static_cast<double>(b.n - 1)));
}

std::optional<TTest> paired_test(std::span<const double> differences) {
  const Estimate e = estimate(differences);
  if (e.n < 2) return std::nullopt;
  return tested(e.mean, std::pow(*e.standard_error(), 2), static_cast<double>(e.n - 1));
}

std::vector<double> holm(std::span<const double> p) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t i, std::size_t j) { return p[i] < p[j]; });
  std::vector<double> out(p.size());
  double so_far = 0;
  for (std::size_t k = 0; k < order.size(); ++k) {
    so_far = std::max(so_far, std::min(1.0, static_cast<double>(p.size() - k) * p[order[k]]));
    out[order[k]] = so_far;
  }
  return out;
}

std::optional<double> pooled_deviation(std::span<const Estimate> groups) {
  double squares = 0, degrees = 0;
  for (const Estimate& g : groups) {
    if (g.n < 2) continue;
    squares += static_cast<double>(g.n - 1) * g.deviation * g.deviation;
    degrees += static_cast<double>(g.n - 1);
  }
  if (degrees == 0) return std::nullopt;
  return std::sqrt(squares / degrees);
}

double track3_threshold(double threshold, double sigma) { return threshold * sigma / kTrack3Sigma; }

double track3_margin(double target, const Estimate& runs) {
  return (target - runs.mean) * std::sqrt(static_cast<double>(runs.n));
}

double track3_pairwise(const Estimate& a, double steps_a, const Estimate& b, double steps_b) {
  const double lead = b.mean - a.mean + kTrack3LossPerStep * (steps_b - steps_a);
  return lead / std::sqrt(1 / static_cast<double>(a.n) + 1 / static_cast<double>(b.n));
}

bool track3_holds(double margin, double threshold) { return margin >= threshold * (1 - 1e-9); }

}  // namespace spectrain
