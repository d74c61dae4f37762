#pragma once

#include <string>
#include <vector>

#include "train/compare_results.h"
#include "train/compare_statistics.h"
#include "train/picture.h"

namespace spectrain {

// The pictures of a comparison as scripts for gnuplot, drawn by its SVG terminal to its standard output.

// Final losses: every seed of each variant's best point, the mean and its standard error; best at the top.
PictureScript final_loss_picture(const ComparedRuns& results, const ComparisonStatistics& all);

enum class CurveAxis : std::uint8_t { tokens, seconds, flops };
// Mean validation loss of each variant's best point along training. Early losses and variants far behind are
// cut off, the latter said in the remark.
PictureScript curve_picture(const ComparedRuns& results, const ComparisonStatistics& all, CurveAxis axis);

// Final loss against one axis of the grids ("lr"), a line for each variant that was swept along it: for each
// value the lowest mean over the sweep seeds that any values of the other axes gave. Values with which all
// runs diverged are crosses at the top.
PictureScript sensitivity_picture(const ComparedRuns& results, const ComparisonStatistics& all,
                                  const std::string& axis);

// State, share of FLOPs and seconds per step of the optimizers, as bars.
PictureScript cost_picture(const ComparedRuns& results, const ComparisonStatistics& all);

}  // namespace spectrain
