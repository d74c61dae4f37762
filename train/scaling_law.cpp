#include "train/scaling_law.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <stdexcept>
#include <vector>

namespace spectrain {
namespace {

struct Line {
  double a = 0, c = 0, squares = std::numeric_limits<double>::infinity();
};

// Best a and c >= 0 for a given b, with budgets in units of `unit` so that powers stay near one.
Line best_line(std::span<const double> tokens, std::span<const double> losses, double unit, double b) {
  const auto n = static_cast<double>(tokens.size());
  double x1 = 0, y1 = 0, x2 = 0, xy = 0;
  std::vector<double> x;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    x.push_back(std::pow(tokens[i] / unit, -b));
    x1 += x[i] / n;
    y1 += losses[i] / n;
  }
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    x2 += (x[i] - x1) * (x[i] - x1);
    xy += (x[i] - x1) * (losses[i] - y1);
  }
  Line line;
  if (!(x2 > 0)) return line;
  line.a = xy / x2;
  line.c = y1 - line.a * x1;
  if (line.c < 0) {
    // On the border the best a is that of a power law alone.
    line.c = 0;
    line.a = (xy + n * x1 * y1) / (x2 + n * x1 * x1);
  }
  line.squares = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    line.squares += std::pow(line.a * x[i] + line.c - losses[i], 2);
  return line;
}

}  // namespace

std::optional<ScalingLaw> fit_scaling_law(std::span<const double> tokens, std::span<const double> losses) {
  if (tokens.size() != losses.size())
    throw std::logic_error("fit_scaling_law: as many losses as budgets are needed");
  if (std::set<double>(tokens.begin(), tokens.end()).size() < 3) return std::nullopt;
  double mean_log = 0;
  for (const double d : tokens) mean_log += std::log(d) / static_cast<double>(tokens.size());
  const double unit = std::exp(mean_log);
  const auto squares = [&](double log_b) { return best_line(tokens, losses, unit, std::exp(log_b)).squares; };
  constexpr int kPlaces = 400;
  const double low = std::log(1e-3), step = (std::log(10.0) - low) / kPlaces;
  int best = 0;
  for (int i = 1; i <= kPlaces; ++i)
    if (squares(low + i * step) < squares(low + best * step)) best = i;
  // At an end of the search there is no minimum: the losses bend in a way that no such law does.
  if (best == 0 || best == kPlaces) return std::nullopt;
  // Golden sections of the two places around the best one.
  const double golden = (std::sqrt(5.0) - 1) / 2;
  double from = low + (best - 1) * step, to = low + (best + 1) * step;
  for (int i = 0; i < 80; ++i) {
    const double width = golden * (to - from);
    if (squares(to - width) < squares(from + width))
      to = from + width;
    else
      from = to - width;
  }
  ScalingLaw law;
  law.b = std::exp((from + to) / 2);
  const Line line = best_line(tokens, losses, unit, law.b);
  if (!(line.a > 0)) return std::nullopt;
  law.a = line.a * std::pow(unit, law.b);
  law.c = line.c;
  for (std::size_t i = 0; i < tokens.size(); ++i)
    law.worst = std::max(law.worst, std::abs(law.a * std::pow(tokens[i], -law.b) + law.c - losses[i]));
  return law;
}

double tokens_for(const ScalingLaw& law, double loss) {
  if (!(loss > law.c)) return std::numeric_limits<double>::infinity();
  return std::pow(law.a / (loss - law.c), 1 / law.b);
}

}  // namespace spectrain
