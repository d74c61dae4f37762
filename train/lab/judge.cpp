#include "train/lab/judge.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

namespace spectrain::lab {
namespace {

std::string with_unit(double value, std::string_view unit) {
  return unit.empty() ? shown(value) : fmt::format("{} {}", shown(value), unit);
}

}  // namespace

std::string shown(double value) {
  const double magnitude = std::abs(value);
  if (magnitude >= 1000 && magnitude < 1e7) return fmt::format("{:.0f}", value);
  return fmt::format("{:.4g}", value);
}

std::string shown(const std::vector<double>& values) {
  std::string text;
  for (const double v : values) text += (text.empty() ? "" : ", ") + shown(v);
  return text;
}

Check no_more(std::string statement, double value, double limit, std::string_view unit) {
  return {std::move(statement), with_unit(value, unit), std::isfinite(value) && value <= limit};
}

Check no_less(std::string statement, double value, double limit, std::string_view unit) {
  return {std::move(statement), with_unit(value, unit), std::isfinite(value) && value >= limit};
}

Check between(std::string statement, double value, double low, double high, std::string_view unit) {
  return {std::move(statement), with_unit(value, unit), value >= low && value <= high};
}

Check near_expected(std::string statement, double value, double expected, double tolerance) {
  return {std::move(statement), fmt::format("{}, expected {}", shown(value), shown(expected)),
          std::abs(value - expected) <= tolerance * std::abs(expected)};
}

Check all_near(std::string statement, const std::vector<double>& values, const std::vector<double>& expected,
               double tolerance) {
  double worst =
      values.size() == expected.size() && !values.empty() ? 0 : std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < values.size() && i < expected.size(); ++i) {
    const double error = std::abs(values[i] - expected[i]) / std::abs(expected[i]);
    if (!(error <= worst)) worst = error;  // NaN stays
  }
  return {std::move(statement), fmt::format("at most {} % off", shown(100 * worst)), worst <= tolerance};
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum / static_cast<double>(values.size());
}

Measurement measured(std::string name, const std::vector<double>& values, std::string unit) {
  Measurement m;
  m.name = std::move(name);
  m.value = mean_of(values);
  m.seeds = static_cast<int>(values.size());
  m.unit = std::move(unit);
  double squares = 0;
  for (const double v : values) squares += (v - m.value) * (v - m.value);
  if (values.size() > 1) m.spread = std::sqrt(squares / static_cast<double>(values.size() - 1));
  return m;
}

Measurement measured(std::string name, double value, std::string unit) {
  return measured(std::move(name), std::vector<double>{value}, std::move(unit));
}

Measurement expecting(Measurement m, double expected, std::string_view from) {
  m.expected = expected;
  m.expected_from = from;
  return m;
}

Measurement published(Measurement m, double expected, bool same_settings) {
  return same_settings ? expecting(std::move(m), expected, kIndependent) : m;
}

double log_slope(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  double sx = 0, sy = 0, sxx = 0, sxy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double u = std::log(x[i]), v = std::log(y[i]);
    sx += u;
    sy += v;
    sxx += u * u;
    sxy += u * v;
  }
  return (n * sxy - sx * sy) / (n * sxx - sx * sx);
}

}  // namespace spectrain::lab
