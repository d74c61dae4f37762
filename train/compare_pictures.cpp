#include "train/compare_pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "train/compare_fields.h"
#include "train/gnuplot.h"

namespace spectrain {
namespace {

struct LossRange {
  double low = 0, high = 1;
  bool has(double y) const { return y >= low && y <= high; }
};

std::string name_of(const ComparedRuns& results, const VariantStatistics& v) {
  return results.variants[v.variant].name;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& w : words) text += (text.empty() ? "" : ", ") + w;
  return text;
}

// Losses worth seeing: from the lowest up to three times the distance of the middle from it, so that one
// variant far behind does not press all others into a line. `always` is in view.
LossRange loss_range(std::vector<double> losses, double always) {
  std::erase_if(losses, [](double loss) { return !std::isfinite(loss); });
  if (losses.empty()) return {};
  std::sort(losses.begin(), losses.end());
  const double low = losses.front(), middle = losses[losses.size() / 2];
  double high = std::min(losses.back(), std::max(low + 3 * (middle - low), always));
  high = std::max(high, low + 1e-3);
  const double margin = 0.05 * (high - low);
  return {low - margin, high + margin};
}

double baseline_loss(const ComparisonStatistics& all) {
  const VariantStatistics& baseline = all.ranking[*all.baseline];
  return baseline.best ? baseline.loss.mean : -std::numeric_limits<double>::infinity();
}

std::vector<double> final_losses(const ComparedRuns& results, const VariantStatistics& v) {
  std::vector<double> losses;
  if (!v.best) return losses;
  for (const std::size_t r : v.points[*v.best].runs)
    if (!diverged(results.runs[r])) losses.push_back(final_loss(results.runs[r]));
  return losses;
}

struct Unit {
  double divisor = 1;
  std::string words;
};
Unit unit_of(double high, CurveAxis axis) {
  if (axis == CurveAxis::seconds) {
    if (high >= 3 * 3600) return {3600, "training time (hours)"};
    if (high >= 10 * 60) return {60, "training time (minutes)"};
    return {1, "training time (seconds)"};
  }
  const double power = high > 0 ? std::floor(std::log10(high) / 3) : 0;
  const double divisor = std::pow(1000, std::max(power, 0.0));
  const auto i = static_cast<std::size_t>(std::clamp(power, 0.0, 8.0));
  if (axis == CurveAxis::tokens) {
    constexpr const char* kWords[] = {"tokens", "tokens (thousands)", "tokens (millions)",
                                      "tokens (billions)"};
    if (i > 3) return {1e9, kWords[3]};
    return {divisor, kWords[i]};
  }
  constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P", "E", "Z", "Y"};
  return {std::pow(1000, static_cast<double>(i)),
          fmt::format("floating-point operations ({}FLOP)", kPrefixes[i])};
}

std::vector<CurvePoint> mean_curve(const ComparedRuns& results, const VariantStatistics& v, CurveAxis axis) {
  std::vector<CurvePoint> curve;
  if (!v.best) return curve;
  const ComparedRun& run = results.runs[v.points[*v.best].runs.front()];
  for (const ValidationPoint& p : mean_validation(results, v))
    curve.push_back({axis == CurveAxis::tokens    ? p.tokens
                     : axis == CurveAxis::seconds ? p.seconds
                                                  : flops_at(run, p),
                     p.loss});
  return curve;
}

// From the lowest loss to the baseline's after a sixth of its run.
LossRange curve_range(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::vector<double> ends;
  for (const VariantStatistics& v : all.ranking)
    for (const CurvePoint& p : mean_curve(results, v, CurveAxis::tokens)) ends.push_back(p.y);
  std::erase_if(ends, [](double loss) { return !std::isfinite(loss); });
  if (ends.empty()) return {};
  const double low = *std::min_element(ends.begin(), ends.end());
  double high = low;
  const auto baseline = mean_curve(results, all.ranking[*all.baseline], CurveAxis::tokens);
  for (const CurvePoint& p : baseline)
    if (p.x >= baseline.back().x / 6) high = std::max(high, p.y);
  if (!(high > low)) high = *std::max_element(ends.begin(), ends.end());
  const double margin = std::max(0.04 * (high - low), 1e-3);
  return {low - margin, high + margin};
}

// 1, 2 or 5 times a power of ten, so that an axis has three to seven labels.
double tic_step(double high) {
  if (!(high > 0)) return 1;
  const double power = std::pow(10, std::floor(std::log10(high / 3)));
  const double share = high / 3 / power;
  return power * (share >= 5 ? 5 : share >= 2 ? 2 : 1);
}

}  // namespace

PictureScript final_loss_picture(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::vector<double> means;
  std::vector<std::string> names, beyond;
  for (const VariantStatistics& v : all.ranking)
    if (v.best) means.push_back(v.loss.mean);
  LossRange range = loss_range(means, baseline_loss(all));
  const LossRange in_view = range;
  for (const VariantStatistics& v : all.ranking) {
    if (!v.best || !in_view.has(v.loss.mean)) continue;
    const double se = v.loss.standard_error().value_or(0), room = 0.02 * (in_view.high - in_view.low);
    std::vector<double> ends = final_losses(results, v);
    ends.insert(ends.end(), {v.loss.mean - se, v.loss.mean + se});
    for (const double end : ends) {
      range.low = std::min(range.low, end - room);
      range.high = std::max(range.high, end + room);
    }
  }
  std::string data, tics;
  PlotCommand plot;
  int row = 0;
  for (const VariantStatistics& v : all.ranking) {
    if (!v.best) continue;
    if (!in_view.has(v.loss.mean)) {
      beyond.push_back(fmt::format("{} ({})", name_of(results, v), loss_text(v.loss.mean)));
      continue;
    }
    ++row;
    tics += fmt::format("{}{} {}", tics.empty() ? "" : ", ", gnuplot_text(name_of(results, v)), row);
    const auto i = static_cast<std::size_t>(row - 1);
    std::vector<CurvePoint> seeds;
    for (const double loss : final_losses(results, v)) seeds.push_back({loss, static_cast<double>(row)});
    data += gnuplot_data(fmt::format("seeds{}", row), seeds);
    const double se = v.loss.standard_error().value_or(0);
    data += fmt::format("$mean{} << END\n{} {} {}\nEND\n", row, v.loss.mean, row, se);
    const std::string colour = line_colour(i);
    plot.add(fmt::format("$seeds{} using 1:2 with points pt 6 ps 0.8 lw 1 lc rgb '{}' notitle", row, colour));
    plot.add(fmt::format("$mean{} using 1:2:3 with xerrorbars pt 7 ps 0.8 lw 2.5 lc rgb '{}' notitle", row,
                         colour));
    names.push_back(fmt::format("{} {}", name_of(results, v), estimate_text(v.loss)));
  }
  PictureScript out{"final-loss", "Final validation loss", joined(names), "", ""};
  out.remark =
      "Filled: mean over the seeds of the best settings, with its standard error. Hollow: each seed.";
  if (!beyond.empty()) out.remark += " Too far behind to be in view: " + joined(beyond) + ".";
  out.script = picture_beginning(kPictureWidth, 90 + 30 * row);
  out.script += fmt::format(
      "unset key\nset yrange [{}:0.4]\nset xrange [{}:{}]\nset ytics noenhanced scale 0 ({})\n"
      "set xlabel 'final validation loss (nats per token)'\nset format x '%.4g'\n",
      row + 0.6, range.low, range.high, tics);
  if (all.ranking[*all.baseline].best)
    out.script += fmt::format(
        "set arrow from {0}, graph 0 to {0}, graph 1 nohead dt (4,4) lc rgb '#808080'\n", baseline_loss(all));
  out.script += data + (plot.empty() ? "" : plot.text());
  return out;
}

PictureScript curve_picture(const ComparedRuns& results, const ComparisonStatistics& all, CurveAxis axis) {
  const LossRange range = curve_range(results, all);
  double x_high = 0;
  for (const VariantStatistics& v : all.ranking)
    for (const CurvePoint& p : mean_curve(results, v, axis)) x_high = std::max(x_high, p.x);
  const Unit unit = unit_of(x_high, axis);
  std::string data;
  std::vector<std::string> ends, beyond;
  PlotCommand plot;
  std::size_t i = 0;
  for (const VariantStatistics& v : all.ranking) {
    auto points = mean_curve(results, v, axis);
    std::erase_if(points, [](const CurvePoint& p) { return !std::isfinite(p.x) || !std::isfinite(p.y); });
    if (points.empty()) continue;
    ends.push_back(fmt::format("{} ends at {}", name_of(results, v), loss_text(points.back().y)));
    if (!range.has(points.back().y))
      beyond.push_back(fmt::format("{} ({})", name_of(results, v), loss_text(points.back().y)));
    for (CurvePoint& p : points) p.x /= unit.divisor;
    data += gnuplot_data(fmt::format("curve{}", i), points);
    const std::size_t interval = std::max<std::size_t>(1, (points.size() + 11) / 12);
    plot.add(fmt::format("$curve{} using 1:2 with linespoints lw 2 pt {} ps 0.6 pi {} lc rgb '{}'{} title {}",
                         i, line_symbol(i), interval, line_colour(i), PlotCommand::dashes(i),
                         gnuplot_text(name_of(results, v))));
    ++i;
  }
  constexpr const char* kWords[] = {"tokens", "training time", "floating-point operations"};
  constexpr const char* kIds[] = {"loss-tokens", "loss-seconds", "loss-flops"};
  const auto which = static_cast<std::size_t>(axis);
  PictureScript out{kIds[which], fmt::format("Validation loss against {}", kWords[which]), joined(ends), "",
                    ""};
  if (!beyond.empty()) out.remark = "Ends above the picture: " + joined(beyond) + ".";
  out.script = picture_beginning(kPictureWidth, curve_height(i));
  out.script += fmt::format("set xlabel '{}' offset 0,0.7\nset ylabel 'validation loss (nats per token)'\n",
                            unit.words);
  out.script += fmt::format("set yrange [{}:{}]\nset xrange [0:{}]\n", range.low, range.high,
                            x_high > 0 ? x_high / unit.divisor * 1.01 : 1);
  out.script += data + (plot.empty() ? "" : plot.text());
  return out;
}

PictureScript sensitivity_picture(const ComparedRuns& results, const ComparisonStatistics& all,
                                  const std::string& axis) {
  // value -> lowest mean, for each variant in the order of the ranking
  std::vector<std::pair<const VariantStatistics*, std::map<double, double>>> lines;
  std::vector<double> losses;
  bool positive = true;
  double x_low = std::numeric_limits<double>::infinity(), x_high = 0;
  for (const VariantStatistics& v : all.ranking) {
    std::map<double, double> line;
    for (const PointStatistics& point : v.points)
      for (const auto& [name, value] : point.point) {
        if (name != axis) continue;
        const auto [at, fresh] = line.emplace(value, point.sweep_mean);
        if (!fresh) at->second = std::min(at->second, point.sweep_mean);
        positive = positive && value > 0;
        x_low = std::min(x_low, value);
        x_high = std::max(x_high, value);
      }
    for (const auto& [value, loss] : line) losses.push_back(loss);
    if (!line.empty()) lines.emplace_back(&v, std::move(line));
  }
  const LossRange range = loss_range(losses, baseline_loss(all));
  const double top = range.high - 0.015 * (range.high - range.low);
  std::string data;
  std::vector<std::string> words;
  PlotCommand plot;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    std::vector<CurvePoint> points, crosses, best;
    for (const auto& [value, loss] : lines[i].second) {
      if (std::isfinite(loss)) points.push_back({value, loss});
      if (!range.has(loss)) crosses.push_back({value, top});
      if (best.empty() || loss < best[0].y) best = {{value, loss}};
    }
    const std::string style = fmt::format("lc rgb '{}'", line_colour(i));
    data += gnuplot_data(fmt::format("line{}", i), points) +
            gnuplot_data(fmt::format("cross{}", i), crosses) + gnuplot_data(fmt::format("best{}", i), best);
    const std::string name = name_of(results, *lines[i].first);
    plot.add(fmt::format("{} with linespoints lw 2 pt {} ps 0.7 {}{} title {}",
                         points.empty() ? "NaN" : fmt::format("$line{} using 1:2", i), line_symbol(i), style,
                         PlotCommand::dashes(i), gnuplot_text(name)));
    if (!crosses.empty())
      plot.add(fmt::format("$cross{} using 1:2 with points pt 2 ps 1 lw 2 {} notitle", i, style));
    if (!best.empty() && range.has(best[0].y))
      plot.add(fmt::format("$best{} using 1:2 with points pt 6 ps 1.7 lw 1.5 {} notitle", i, style));
    if (!best.empty())
      words.push_back(fmt::format("{} is best at {:.4g} ({})", name, best[0].x, loss_text(best[0].y)));
  }
  PictureScript out{"sweep", fmt::format("Final validation loss against {}", axis), joined(words), "", ""};
  out.remark =
      "Means over the seeds of the sweep. Ringed: the best value. Crosses at the top: values with which runs "
      "diverged, or ended above the picture.";
  out.script = picture_beginning(kPictureWidth, curve_height(lines.size()));
  out.script += fmt::format(
      "set xlabel {} noenhanced offset 0,0.7\nset ylabel 'final validation loss'\nset yrange [{}:{}]\n",
      gnuplot_text(axis), range.low, range.high);
  if (positive && x_high > 0)
    out.script += fmt::format("set logscale x\nset xrange [{}:{}]\n", x_low / 1.3, x_high * 1.3);
  out.script += data + (plot.empty() ? "" : plot.text());
  return out;
}

PictureScript cost_picture(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::string tics, data = "$cost << END\n";
  double highest[3] = {0, 0, 0};
  std::vector<std::string> words;
  int row = 0;
  for (const VariantStatistics& v : all.ranking) {
    if (!v.best) continue;
    ++row;
    tics += fmt::format("{}{} {}", row == 1 ? "" : ", ", gnuplot_text(name_of(results, v)), row);
    data += fmt::format("{} {} {} {}\n", row, v.state_bytes_per_parameter, 100 * v.optimizer_flops_share,
                        v.seconds_per_step);
    const double costs[] = {v.state_bytes_per_parameter, 100 * v.optimizer_flops_share, v.seconds_per_step};
    for (std::size_t i = 0; i < 3; ++i) highest[i] = std::max(highest[i], costs[i]);
    words.push_back(fmt::format(
        "{}: {:.2f} bytes per parameter, {:.2f} % of the FLOPs, {:.4g} seconds per step", name_of(results, v),
        v.state_bytes_per_parameter, 100 * v.optimizer_flops_share, v.seconds_per_step));
  }
  PictureScript out{"cost", "What the optimizers cost", joined(words), "", ""};
  const int height = 90 + 26 * row;
  out.script = picture_beginning(kPictureWidth, height) + data + "END\n";
  out.script += fmt::format(
      "unset key\nset style fill solid 0.85 noborder\nset grid noytics xtics\nset yrange [{}:0.4]\n"
      "set ytics noenhanced scale 0 ({})\nset multiplot layout 1,3 margins 0.17,0.98,{},{} spacing 0.04,0\n",
      row + 0.6, tics, 36.0 / height, 1 - 42.0 / height);
  constexpr const char* kTitles[] = {"state (bytes per parameter)", "share of FLOPs (%)", "seconds per step"};
  for (std::size_t panel = 0; panel < 3; ++panel) {
    const double step = tic_step(highest[panel]);
    const double end = std::max(std::ceil(highest[panel] / step), 1.0) * step;
    out.script += fmt::format(
        "set title '{}' font ',14'\nset xtics 0,{} font ',12'\nset xrange [0:{}]\nplot $cost using "
        "(column({})/2):1:(column({})/2):(0.32) with boxxyerrorbars lc rgb '{}' notitle\nunset ytics\n",
        kTitles[panel], step, end, panel + 2, panel + 2, line_colour(panel));
  }
  out.script += "unset multiplot\n";
  return out;
}

}  // namespace spectrain
