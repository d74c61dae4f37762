#pragma once

#include <span>
#include <string>
#include <vector>

#include "train/clock.h"
#include "train/commands.h"
#include "train/metrics.h"

// Curves of finished or running runs, from their metrics.jsonl.

namespace spectrain {

struct CurvePoint {
  double x = 0, y = 0;
};

struct RunCurves {
  std::string name;                         // unique among the runs plotted together
  std::string optimizer;                    // empty: the header does not say
  double target = 0;                        // of the header; 0: none
  std::vector<ValidationPoint> validation;  // the last one of a step counts
  std::vector<ValidationPoint> training;    // the same for training losses
};

// Reads the runs: metrics.jsonl files, or directories that hold one. Throws RequestError naming what cannot
// be read. Equal names get their directory's name, or a number, so that a legend can tell them apart.
std::vector<RunCurves> load_runs(std::span<const std::string> paths);

double along(const ValidationPoint& point, PlotAxis axis);
const char* label_of(PlotAxis axis);  // "tokens", "training seconds", "steps"

// Finite points of a curve against the axis.
std::vector<CurvePoint> curve(std::span<const ValidationPoint> points, PlotAxis axis);

// Exponential average over about `span` points, corrected for its start:
// s_i = sum_j a^(i-j) y_j / sum_j a^(i-j), a = 1 - 1/span. At most `most` points of it are returned, evenly
// chosen.
std::vector<CurvePoint> smoothed(std::span<const CurvePoint> points, double span, std::size_t most);

// The y range that shows what matters: all validation losses from the second on, and the training curve's
// later nine tenths; the first losses of a run (ln vocab) would squeeze everything else into a line. x: all.
struct PlotRange {
  double x_low = 0, x_high = 1, y_low = 0, y_high = 1;
};
PlotRange range_of(std::span<const RunCurves> runs, PlotAxis axis);

}  // namespace spectrain
