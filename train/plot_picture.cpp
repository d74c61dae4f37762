#include "train/plot_picture.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "kernels/error.h"
#include "train/durable_file.h"
#include "train/gnuplot.h"

namespace spectrain {
namespace {

// Ends of the x axis and the unit its labels are divided by: "tokens (millions)".
struct Unit {
  double divisor = 1;
  const char* words = "";
};
Unit unit_of(double high, PlotAxis axis) {
  if (axis != PlotAxis::tokens) return {};
  if (high >= 2e9) return {1e9, " (billions)"};
  if (high >= 2e6) return {1e6, " (millions)"};
  if (high >= 2e3) return {1e3, " (thousands)"};
  return {};
}

std::vector<CurvePoint> scaled(std::vector<CurvePoint> points, double divisor, bool log_x) {
  for (CurvePoint& p : points) p.x /= divisor;
  if (log_x) std::erase_if(points, [](const CurvePoint& p) { return !(p.x > 0); });
  return points;
}

std::string terminal_for(const std::string& out, const PicturePlot& options) {
  const auto size = fmt::format("size {},{}", options.width, options.height);
  if (out.ends_with(".svg"))
    return fmt::format("svg {} dynamic enhanced font 'Helvetica,14' background '#ffffff'", size);
  if (!out.ends_with(".png"))
    throw RequestError(fmt::format("a picture is an .svg or a .png file, not '{}'", out));
  if (run_gnuplot("set terminal pngcairo\n").code == 0)
    return fmt::format("pngcairo {} enhanced font 'Sans,12' background '#ffffff'", size);
  if (run_gnuplot("set terminal png\n").code == 0) return fmt::format("png {} enhanced truecolor", size);
  throw RequestError(
      fmt::format("this gnuplot cannot draw PNG, so {} was not written; ask for an .svg", out));
}

}  // namespace

std::string picture_script(std::span<const RunCurves> runs, const PicturePlot& options,
                           const std::string& terminal, const std::string& out) {
  const PlotRange range = range_of(runs, options.x);
  const Unit unit = unit_of(range.x_high, options.x);
  std::string data, plot;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto training = curve(runs[i].training, options.x);
    const auto thin = scaled(smoothed(training, static_cast<double>(training.size()) / 50, 1000),
                             unit.divisor, options.log_x);
    const auto solid = scaled(curve(runs[i].validation, options.x), unit.divisor, options.log_x);
    const std::string colour = line_colour(i), name = fmt::format("{}", i);
    data += gnuplot_data("training" + name, thin) + gnuplot_data("validation" + name, solid);
    std::string title = runs[i].name;
    if (!solid.empty()) title += fmt::format("   {:.4f}", solid.back().y);
    const auto add = [&](const std::string& piece) { plot += (plot.empty() ? "plot " : ", \\\n  ") + piece; };
    if (!thin.empty())
      add(fmt::format("$training{} using 1:2 with lines lw 1.2 lc rgb '#a0{}' {}", name, colour.substr(1),
                      solid.empty() ? "title " + gnuplot_text(title) + " noenhanced" : "notitle"));
    // Many validations would melt into a band: about thirty points show what was measured.
    const std::size_t interval = std::max<std::size_t>(1, (solid.size() + 29) / 30);
    if (!solid.empty())
      add(
          fmt::format("$validation{} using 1:2 with linespoints lw 2.4 pt {} ps 0.7 pi {} lc rgb '{}' title "
                      "{} noenhanced",
                      name, line_symbol(i), interval, colour, gnuplot_text(title)));
  }
  const std::string title =
      options.title.empty() ? fmt::format("Loss against {}", label_of(options.x)) : options.title;
  std::string script =
      fmt::format("set terminal {}\nset output {}\nset encoding utf8\n", terminal, gnuplot_text(out));
  script += fmt::format("set title {} noenhanced font ',16' offset 0,-0.2\n", gnuplot_text(title));
  script +=
      fmt::format("set xlabel '{}{}'\nset ylabel 'loss (nats per token)'\n", label_of(options.x), unit.words);
  script +=
      "set border 3 lc rgb '#606060'\nset tics nomirror out scale 0.6 textcolor rgb '#303030'\n"
      "set grid lc rgb '#e4e4e4' lt 1 lw 1\nset format x '%g'\nset format y '%.4g'\n"
      "set key top right Right samplen 2 spacing 1.25 textcolor rgb '#202020' "
      "title 'final validation loss' noenhanced font ',11'\n"
      "set lmargin 9\nset rmargin 3\n";
  script += fmt::format("set yrange [{}:{}]\n", range.y_low, range.y_high);
  if (options.log_x)
    script += fmt::format("set logscale x\nset xrange [*:{}]\n", range.x_high / unit.divisor);
  else
    script += fmt::format("set xrange [{}:{}]\n", range.x_low / unit.divisor, range.x_high / unit.divisor);
  if (plot.empty()) throw RequestError("there is nothing to plot in these runs on this axis");
  return script + data + plot + "\nunset output\n";
}

namespace {

void draw(std::span<const RunCurves> runs, const PicturePlot& options, const std::string& out) {
  const std::string writing = out + ".writing";
  const std::string script = picture_script(runs, options, terminal_for(out, options), writing);
  // Tried here: gnuplot's words about a directory that is missing fill a screen.
  const Descriptor file(::open(writing.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
  if (file.get() < 0) throw RequestError(fmt::format("{} cannot be written: {}", out, std::strerror(errno)));
  const GnuplotOutput outcome = run_gnuplot(script);
  if (outcome.code != 0 || ::access(writing.c_str(), R_OK) != 0) {
    std::remove(writing.c_str());
    throw Error(fmt::format("gnuplot could not draw {}: {}", out, outcome.words));
  }
  if (std::rename(writing.c_str(), out.c_str()) != 0)
    throw Error(fmt::format("cannot rename {} to {}: {}", writing, out, std::strerror(errno)));
}

}  // namespace

void plot_picture(std::span<const RunCurves> runs, const PicturePlot& options, const std::string& out) {
  try {
    draw(runs, options, out);
  } catch (const GnuplotMissing& e) {
    throw RequestError(fmt::format("{}, or leave out --out for a chart of characters", e.what()));
  }
}

}  // namespace spectrain
