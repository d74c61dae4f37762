#include "train/plot_terminal.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "train/progress.h"

namespace spectrain {
namespace {

constexpr int kLabelWidth = 8;  // of the y axis: "  3.2800"

constexpr const char* kMarks[] = {"●", "▲", "■", "◆", "○", "△", "□", "◇"};
constexpr const char* kAsciiMarks[] = {"o", "x", "+", "*", "#", "@", "%", "&"};
constexpr std::size_t kMarkCount = 8;

const char* mark_of(std::size_t run, bool unicode) {
  return unicode ? kMarks[run % kMarkCount] : kAsciiMarks[run % kMarkCount];
}

class Canvas {
 public:
  Canvas(int width, int height, PlotRange range) : width_(width), height_(height), range_(range) {
    cells_.assign(static_cast<std::size_t>(width * height), " ");
  }
  int column(double x) const { return place((x - range_.x_low) / (range_.x_high - range_.x_low), width_); }
  int row(double y) const { return place((range_.y_high - y) / (range_.y_high - range_.y_low), height_); }
  double value_at(int r) const {
    return range_.y_high - (range_.y_high - range_.y_low) * r / std::max(1, height_ - 1);
  }
  void put(int c, int r, const char* mark, bool over) {
    if (c < 0 || c >= width_ || r < 0 || r >= height_) return;
    std::string& cell = cells_[static_cast<std::size_t>(r * width_ + c)];
    if (over || cell == " ") cell = mark;
  }
  // From mark to mark, a dot in each column between.
  void line(const CurvePoint& a, const CurvePoint& b, const char* dot) {
    const int first = column(a.x), last = column(b.x);
    for (int c = first + 1; c < last; ++c) {
      const double share = static_cast<double>(c - first) / (last - first);
      put(c, row(a.y + share * (b.y - a.y)), dot, false);
    }
  }
  std::string line_of_text(int r) const {
    std::string text;
    for (int c = 0; c < width_; ++c) text += cells_[static_cast<std::size_t>(r * width_ + c)];
    text.erase(text.find_last_not_of(' ') + 1);
    return text;
  }

 private:
  static int place(double share, int cells) { return static_cast<int>(std::lround(share * (cells - 1))); }
  int width_, height_;
  PlotRange range_;
  std::vector<std::string> cells_;
};

std::string x_labels(const PlotRange& range, PlotAxis axis, int width) {
  const auto text = [&](double v) {
    return axis == PlotAxis::seconds ? human_duration(v) : human_count(std::round(v));
  };
  const std::string low = text(range.x_low), high = text(range.x_high),
                    middle = fmt::format("{} {}", text((range.x_low + range.x_high) / 2), label_of(axis));
  std::string line(static_cast<std::size_t>(width), ' ');
  const auto put = [&](const std::string& s, int at) {
    for (std::size_t i = 0; i < s.size(); ++i)
      if (const int c = at + static_cast<int>(i); c >= 0 && c < width)
        line[static_cast<std::size_t>(c)] = s[i];
  };
  put(low, 0);
  put(middle, (width - 1) / 2);
  put(high, width - static_cast<int>(high.size()));
  return line;
}

std::string legend_line(const RunCurves& run, const char* mark, int width) {
  std::string losses = "no validation";
  if (!run.validation.empty()) losses = fmt::format("val {:.4f}", run.validation.back().loss);
  const int room = width - static_cast<int>(losses.size()) - 8;
  std::string name = run.name;
  if (static_cast<int>(name.size()) > room) name = name.substr(0, static_cast<std::size_t>(room - 2)) + "..";
  return fmt::format("  {} {}  {}\n", mark, name, losses);
}

// Training losses are drawn only for runs without validation, so only those may stretch the range.
PlotRange range_of_shown(std::span<const RunCurves> runs, PlotAxis axis) {
  std::vector<RunCurves> shown(runs.begin(), runs.end());
  for (RunCurves& run : shown)
    if (!curve(run.validation, axis).empty()) run.training.clear();
  return range_of(shown, axis);
}

}  // namespace

std::string plot_on_terminal(std::span<const RunCurves> runs, const TerminalPlot& options) {
  const int width = std::max(options.width, 40),
            legend = static_cast<int>(std::min<std::size_t>(runs.size(), 8));
  const int rows = std::max(options.height, 10) - legend - 3;  // title, axis, labels
  const int columns = width - kLabelWidth - 3;
  const PlotRange range = range_of_shown(runs, options.x);
  Canvas canvas(columns, std::max(rows, 4), range);

  for (std::size_t i = 0; i < runs.size(); ++i) {
    auto points = curve(runs[i].validation, options.x);
    const bool validated = !points.empty();
    if (!validated)
      points = smoothed(curve(runs[i].training, options.x), 10, static_cast<std::size_t>(columns));
    const char* dot = options.unicode ? "·" : ".";
    for (std::size_t p = 1; p < points.size(); ++p) canvas.line(points[p - 1], points[p], dot);
  }
  for (std::size_t i = 0; i < runs.size(); ++i) {
    auto points = curve(runs[i].validation, options.x);
    if (points.empty())
      points = smoothed(curve(runs[i].training, options.x), 10, static_cast<std::size_t>(columns));
    for (const CurvePoint& p : points)
      canvas.put(canvas.column(p.x), canvas.row(p.y), mark_of(i, options.unicode), true);
  }

  std::string text = fmt::format("{:>{}} loss against {}\n", "", kLabelWidth + 1, label_of(options.x));
  const int shown = std::max(rows, 4), spacing = std::max(1, (shown - 1) / 4);
  for (int r = 0; r < shown; ++r) {
    const bool labelled = r % spacing == 0;
    const std::string label = labelled ? fmt::format("{:.4f}", canvas.value_at(r)) : "";
    const char* edge = options.unicode ? (labelled ? "┤" : "│") : (labelled ? "+" : "|");
    text += fmt::format("{:>{}} {}{}\n", label, kLabelWidth, edge, canvas.line_of_text(r));
  }
  text += fmt::format("{:>{}} {}", "", kLabelWidth, options.unicode ? "└" : "+");
  for (int c = 0; c < columns; ++c) text += options.unicode ? "─" : "-";
  std::string labels = x_labels(range, options.x, columns);
  text += fmt::format("\n{:>{}}  {}\n", "", kLabelWidth, labels);
  for (std::size_t i = 0; i < runs.size() && i < 8; ++i)
    text += legend_line(runs[i], mark_of(i, options.unicode), width);
  return text;
}

}  // namespace spectrain
