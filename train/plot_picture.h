#pragma once

#include <span>
#include <string>

#include "train/plot.h"

namespace spectrain {

struct PicturePlot {
  PlotAxis x = PlotAxis::tokens;
  bool log_x = false;
  std::string title;  // empty: "validation loss against tokens"
  int width = 960, height = 600;
};

// The gnuplot script for the chart, data included; draws to `out` through `terminal` (a gnuplot terminal with
// options). Validation losses as lines with points, training losses smoothed, thin and pale in the same
// colour; colours are those of Okabe and Ito (2008), told apart by colour-blind readers; the legend says the
// final validation loss.
std::string picture_script(std::span<const RunCurves> runs, const PicturePlot& options,
                           const std::string& terminal, const std::string& out);

// Writes the chart to `out`, an .svg or .png file, through gnuplot (found on the PATH, started without a
// shell). The file appears whole or not at all. Throws RequestError for another ending, when gnuplot is not
// installed, or when it cannot draw PNG; Error with gnuplot's own words when it fails.
void plot_picture(std::span<const RunCurves> runs, const PicturePlot& options, const std::string& out);

}  // namespace spectrain
