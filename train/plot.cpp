#include "train/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>

#include "kernels/error.h"

namespace spectrain {

namespace fs = std::filesystem;

namespace {

std::string metrics_path(const std::string& path) {
  if (!fs::is_directory(path)) {
    if (fs::exists(path)) return path;
    throw RequestError(fmt::format("{} is neither a run directory nor a metrics.jsonl file", path));
  }
  const std::string inside = path + "/metrics.jsonl";
  if (fs::exists(inside)) return inside;
  throw RequestError(fmt::format("{} holds no metrics.jsonl; is it the directory of a run?", path));
}

// A resumed run may have measured a step twice: the later measurement belongs to what went on.
void put(std::vector<ValidationPoint>& points, const MetricsLine& line, double loss) {
  const ValidationPoint point{static_cast<double>(line.step), static_cast<double>(line.tokens),
                              line.train_seconds, loss};
  while (!points.empty() && points.back().step >= point.step) points.pop_back();
  points.push_back(point);
}

RunCurves load_run(const std::string& path) {
  const MetricsFile file = read_metrics(metrics_path(path));
  RunCurves run{file.header.run, file.header.optimizer, file.header.target, {}, {}};
  for (const MetricsLine& line : file.lines) {
    if (line.val_loss) put(run.validation, line, *line.val_loss);
    if (line.train_loss) put(run.training, line, *line.train_loss);
  }
  return run;
}

}  // namespace

std::vector<RunCurves> load_runs(std::span<const std::string> paths) {
  std::vector<RunCurves> runs;
  std::map<std::string, int> seen;
  for (const std::string& path : paths) {
    runs.push_back(load_run(path));
    ++seen[runs.back().name];
  }
  std::map<std::string, int> numbers;
  for (RunCurves& run : runs)
    if (seen[run.name] > 1) run.name = fmt::format("{} ({})", run.name, ++numbers[run.name]);
  return runs;
}

double along(const ValidationPoint& point, PlotAxis axis) {
  switch (axis) {
    case PlotAxis::seconds:
      return point.seconds;
    case PlotAxis::steps:
      return point.step;
    case PlotAxis::tokens:
      break;
  }
  return point.tokens;
}

const char* label_of(PlotAxis axis) {
  switch (axis) {
    case PlotAxis::seconds:
      return "training seconds";
    case PlotAxis::steps:
      return "steps";
    case PlotAxis::tokens:
      break;
  }
  return "tokens";
}

std::vector<CurvePoint> curve(std::span<const ValidationPoint> points, PlotAxis axis) {
  std::vector<CurvePoint> out;
  for (const ValidationPoint& p : points)
    if (std::isfinite(p.loss) && std::isfinite(along(p, axis))) out.push_back({along(p, axis), p.loss});
  return out;
}

std::vector<CurvePoint> smoothed(std::span<const CurvePoint> points, double span, std::size_t most) {
  const double keep = 1 - 1 / std::max(span, 1.0);
  const std::size_t stride = most == 0 ? 1 : (points.size() + most - 1) / most;
  std::vector<CurvePoint> out;
  double sum = 0, weight = 0;
  for (std::size_t i = 0; i < points.size(); ++i) {
    sum = keep * sum + points[i].y;
    weight = keep * weight + 1;
    if ((i + 1) % stride == 0 || i + 1 == points.size()) out.push_back({points[i].x, sum / weight});
  }
  return out;
}

PlotRange range_of(std::span<const RunCurves> runs, PlotAxis axis) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  PlotRange range{kInfinity, -kInfinity, kInfinity, -kInfinity};
  const auto see = [&](const std::vector<CurvePoint>& points, std::size_t skip) {
    for (std::size_t i = 0; i < points.size(); ++i) {
      range.x_low = std::min(range.x_low, points[i].x);
      range.x_high = std::max(range.x_high, points[i].x);
      if (i < skip && i + 1 < points.size()) continue;
      range.y_low = std::min(range.y_low, points[i].y);
      range.y_high = std::max(range.y_high, points[i].y);
    }
  };
  for (const RunCurves& run : runs) {
    // With two or three validations the first is half the story and stays.
    see(curve(run.validation, axis), run.validation.size() > 3 ? 1 : 0);
    const auto training = curve(run.training, axis);
    see(smoothed(training, std::max(1.0, static_cast<double>(training.size()) / 50), 400),
        training.empty() ? 0 : 40);
  }
  if (!(range.x_low <= range.x_high))
    throw RequestError("there is no finite loss to plot in these runs; have they trained yet?");
  if (range.x_low == range.x_high) range.x_high = range.x_low + 1;
  const double margin = std::max(0.03 * (range.y_high - range.y_low), 1e-3);
  range.y_low -= margin;
  range.y_high += margin;
  return range;
}

}  // namespace spectrain
