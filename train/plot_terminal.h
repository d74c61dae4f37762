#pragma once

#include <span>
#include <string>

#include "train/plot.h"

namespace spectrain {

struct TerminalPlot {
  PlotAxis x = PlotAxis::tokens;
  int width = 80, height = 24;  // of everything, legend included; at least 40 x 10
  bool unicode = true;          // else ASCII only
};

// A chart of characters: validation losses as marks, one letter or sign for each run, joined by dots; a run
// without validation shows its training loss. Axes with labels, a legend with the final validation loss.
// Lines end with '\n'.
std::string plot_on_terminal(std::span<const RunCurves> runs, const TerminalPlot& options);

}  // namespace spectrain
