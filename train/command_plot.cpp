#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>

#include "train/commands.h"
#include "train/comparison.h"
#include "train/plot.h"
#include "train/plot_picture.h"
#include "train/plot_terminal.h"
#include "train/progress.h"

namespace spectrain {
namespace {

TerminalPlot terminal_plot(const PlotRequest& request) {
  TerminalPlot options;
  options.x = request.x;
  options.unicode = locale_is_utf8() && !request.ascii;
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0) {
    options.width = size.ws_col;
    options.height = size.ws_row - 2;  // the command line and the next prompt stay in sight
  }
  if (request.width > 0) options.width = request.width;
  if (request.height > 0) options.height = request.height;
  return options;
}

}  // namespace

int run_plot(const PlotRequest& request) {
  const std::vector<RunCurves> runs = load_runs(request.runs);
  if (request.table) {
    std::fputs(comparison_table(runs, request.target).c_str(), stdout);
    if (request.out.empty()) return 0;
  }
  if (request.out.empty()) {
    std::fputs(plot_on_terminal(runs, terminal_plot(request)).c_str(), stdout);
  } else {
    plot_picture(runs, {.x = request.x, .log_x = request.log_x, .title = request.title}, request.out);
    std::printf("%s\n", request.out.c_str());
  }
  return 0;
}

}  // namespace spectrain
