#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "train/commands.h"
#include "train/comparison.h"
#include "train/plot.h"
#include "train/plot_picture.h"
#include "train/plot_terminal.h"
#include "train/progress.h"

namespace spectrain {
namespace {

// `below`: lines that are printed under the chart.
TerminalPlot terminal_plot(const PlotRequest& request, int below) {
  TerminalPlot options;
  options.x = request.x;
  options.unicode = locale_is_utf8() && !request.ascii;
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
    options.width = size.ws_col;
    options.height = size.ws_row - 2 - below;  // the command line and the next prompt stay in sight
  }
  if (request.width > 0) options.width = request.width;
  if (request.height > 0) options.height = request.height;
  return options;
}

}  // namespace

int run_plot(const PlotRequest& request) {
  const std::vector<RunCurves> runs = load_runs(request.runs);
  const std::string table = comparison_table(runs, request.target);
  if (!request.out.empty()) {
    plot_picture(runs, {.x = request.x, .log_x = request.log_x, .title = request.title}, request.out);
    if (request.table) std::fputs(table.c_str(), stdout);
    std::printf("%s\n", request.out.c_str());
    return 0;
  }
  if (!request.table) {
    const auto below = 1 + static_cast<int>(std::count(table.begin(), table.end(), '\n'));
    std::fputs(plot_on_terminal(runs, terminal_plot(request, below)).c_str(), stdout);
    std::fputs("\n", stdout);
  }
  std::fputs(table.c_str(), stdout);
  return 0;
}

}  // namespace spectrain
