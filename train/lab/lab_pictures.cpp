#include "train/lab/lab_pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "train/gnuplot.h"

namespace spectrain::lab {
namespace {

struct Bounds {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void include(double x) {
    low = std::min(low, x);
    high = std::max(high, x);
  }
  // gnuplot widens a range without extent by a hundredth, which on a curve that is flat but for rounding
  // shows the rounding; here a flat curve is drawn flat.
  std::string text(bool log) const {
    if (log) return low < high ? "" : fmt::format("[{}:{}]", low / 2, high * 2);
    const double size = std::max(std::abs(low), std::abs(high));
    if (high - low > 1e-9 * size) return "";
    const double room = size > 0 ? 0.1 * size : 1;
    return fmt::format("[{}:{}]", low - room, high + room);
  }
};

class Drawing {
 public:
  explicit Drawing(const Picture& picture) : picture_(picture) {
    for (const Series& s : picture.series) add(s);
  }

  std::string script() const {
    if (plot_.empty()) return {};
    std::string text = picture_beginning(kPictureWidth, curve_height(lines_));
    text += fmt::format("set xlabel {} noenhanced\nset ylabel {} noenhanced\n",
                        gnuplot_text(picture_.x_label), gnuplot_text(picture_.y_label));
    if (picture_.log_x) text += "set logscale x\n";
    if (picture_.log_y) text += "set logscale y\nset format y '%g'\n";
    if (const std::string range = x_.text(picture_.log_x); !range.empty())
      text += "set xrange " + range + "\n";
    if (const std::string range = y_.text(picture_.log_y); !range.empty())
      text += "set yrange " + range + "\n";
    return text + data_ + plot_.text();
  }
  std::string ends() const { return ends_; }

 private:
  bool drawable(double x, bool log) const { return std::isfinite(x) && (!log || x > 0); }

  void add(const Series& s) {
    if (s.x.size() != s.y.size())
      throw std::logic_error(fmt::format("series {} of picture {} has {} x and {} y", s.name, picture_.title,
                                         s.x.size(), s.y.size()));
    const std::string name = fmt::format("series{}", lines_);
    std::string points;
    std::size_t count = 0;
    double last = 0;
    for (std::size_t i = 0; i < s.x.size(); ++i) {
      if (!drawable(s.x[i], picture_.log_x) || !drawable(s.y[i], picture_.log_y)) {
        points += "\n";  // an empty line ends a stretch of the line
        continue;
      }
      points += fmt::format("{} {}\n", s.x[i], s.y[i]);
      x_.include(s.x[i]);
      y_.include(last = s.y[i]);
      ++count;
    }
    if (count == 0) return;
    data_ += fmt::format("${} << END\n{}END\n", name, points);
    // Ten symbols tell lines apart; more hide them.
    plot_.add(fmt::format("${} using 1:2 with linespoints pt {} ps 0.6 pi {} lw 2 lc rgb '{}'{} title {}",
                          name, line_symbol(lines_), std::max<std::size_t>(1, (count + 9) / 10),
                          line_colour(lines_), PlotCommand::dashes(lines_), gnuplot_text(s.name)));
    ends_ += fmt::format("{}{} {:.4g}", ends_.empty() ? "" : ", ", s.name, last);
    ++lines_;
  }

  const Picture& picture_;
  Bounds x_, y_;
  std::string data_, ends_;
  PlotCommand plot_;
  std::size_t lines_ = 0;
};

}  // namespace

PictureScript script_of(const Picture& picture, const std::string& id) {
  const Drawing drawing(picture);
  PictureScript out{id, picture.title, {}, {}, drawing.script()};
  out.description =
      fmt::format("{} against {}; where the lines end: {}", picture.y_label, picture.x_label, drawing.ends());
  return out;
}

}  // namespace spectrain::lab
