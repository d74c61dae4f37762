#include "train/diagnostic_pictures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "train/gnuplot.h"
#include "train/spectrum.h"
#include "train/token_deciles.h"

namespace spectrain {
namespace {

constexpr int kWidth = 880, kRowHeight = 306;
constexpr int kTitleHeight = 36;  // gnuplot leaves out a title that has less
constexpr std::size_t kPanelsInARow = 3;
constexpr double kRounding = 1e-6;  // of float32, against the largest singular value

// One line per variant where it has points; which one it is decides colour and symbol in every panel.
struct Panel {
  std::string title, x, y;
  bool log_y = false;
  std::vector<std::vector<CurvePoint>> lines = {};  // by variant
};

// What cannot stand on the axes is left out.
void clean(Panel& panel) {
  for (auto& line : panel.lines)
    std::erase_if(line, [&](const CurvePoint& p) {
      return !std::isfinite(p.x) || !std::isfinite(p.y) || (panel.log_y && p.y <= 0);
    });
}

bool has_points(const Panel& panel) {
  return std::any_of(panel.lines.begin(), panel.lines.end(), [](const auto& l) { return !l.empty(); });
}

std::string style_of(std::size_t variant) {
  return fmt::format("lw 2 pt {} ps 0.6 lc rgb '{}'{}", line_symbol(variant), line_colour(variant),
                     variant < kLineStyles ? "" : " dt (8,5)");
}

// The legend of all panels, below them: the only place for a dozen of names.
std::string legend(const std::vector<VariantDiagnostics>& all, double height) {
  std::string plot;
  for (std::size_t i = 0; i < all.size(); ++i)
    plot += fmt::format("{}NaN with linespoints {} title {}", plot.empty() ? "plot " : ", \\\n  ",
                        style_of(i), gnuplot_text(all[i].name));
  return fmt::format(
      "unset title\nunset xlabel\nunset ylabel\nunset logscale\nunset border\nunset tics\nunset grid\n"
      "set lmargin at screen 0.02\nset rmargin at screen 0.98\nset bmargin at screen 0\nset tmargin at "
      "screen "
      "{:.4f}\nset xrange [0:1]\nset yrange [0:1]\n"
      "set key inside center center horizontal noenhanced samplen 2.5 width 1 maxcols 4\n{}\n",
      height, plot);
}

std::string plot_of(const Panel& panel, std::size_t number) {
  std::string data, plot;
  for (std::size_t i = 0; i < panel.lines.size(); ++i) {
    if (panel.lines[i].empty()) continue;
    const std::string name = fmt::format("panel{}line{}", number, i);
    data += gnuplot_data(name, panel.lines[i]);
    const std::size_t interval = std::max<std::size_t>(1, (panel.lines[i].size() + 9) / 10);
    plot += fmt::format("{}${} using 1:2 with linespoints {} pi {} notitle",
                        plot.empty() ? "plot " : ", \\\n  ", name, style_of(i), interval);
  }
  return fmt::format(
      "{}set title {} noenhanced\nset xlabel {} noenhanced\nset ylabel {} noenhanced\n{}\n{}\n", data,
      gnuplot_text(panel.title), gnuplot_text(panel.x), gnuplot_text(panel.y),
      panel.log_y ? "set logscale y\nset format y '%.0e'" : "unset logscale y\nset format y '%.4g'", plot);
}

std::string script_of(const std::vector<VariantDiagnostics>& all, const std::vector<Panel>& panels) {
  const std::size_t columns = std::min(panels.size(), kPanelsInARow),
                    rows = (panels.size() + columns - 1) / columns;
  const int below = 14 + 22 * static_cast<int>((all.size() + 3) / 4);
  const int height = kRowHeight * static_cast<int>(rows) + below;
  std::string script = fmt::format(
      "set terminal svg size {},{} dynamic enhanced font 'Helvetica,13'\nset encoding utf8\nunset key\n"
      "set border 3 lc rgb '#808080'\nset tics nomirror out scale 0.5\n"
      "set grid lc rgb '#d0d0d0' lt 1 lw 0.6\nset format x '%g'\nset xtics autofreq\nset multiplot\n",
      kWidth, height);
  const auto share = [&](double pixels) { return pixels / height; };
  for (std::size_t i = 0; i < panels.size(); ++i) {
    const double left = static_cast<double>(i % columns) / static_cast<double>(columns),
                 right = static_cast<double>(i % columns + 1) / static_cast<double>(columns),
                 top = 1 - share(kRowHeight) * static_cast<double>(i / columns);
    script += fmt::format(
        "set lmargin at screen {:.4f}\nset rmargin at screen {:.4f}\nset tmargin at screen {:.4f}\nset "
        "bmargin "
        "at screen {:.4f}\n",
        left + 78.0 / kWidth, right - 14.0 / kWidth, top - share(kTitleHeight), top - share(kRowHeight - 50));
    script += plot_of(panels[i], i);
  }
  return script + legend(all, share(below)) + "unset multiplot\n";
}

PictureScript picture(std::string id, std::string title, const std::vector<VariantDiagnostics>& all,
                      std::vector<Panel> panels, std::string remark) {
  for (Panel& p : panels) clean(p);
  std::erase_if(panels, [](const Panel& p) { return !has_points(p); });
  PictureScript out{std::move(id), std::move(title), {}, std::move(remark), {}};
  for (const Panel& p : panels) {
    std::string ends;
    for (std::size_t i = 0; i < p.lines.size(); ++i)
      if (!p.lines[i].empty())
        ends += fmt::format("{}{} {:.3g}", ends.empty() ? "" : ", ", all[i].name, p.lines[i].back().y);
    out.description +=
        fmt::format("{}{}, where the lines end: {}", out.description.empty() ? "" : "; ", p.title, ends);
  }
  if (!panels.empty()) out.script = script_of(all, panels);
  return out;
}

double millions(const MetricsLine& line) { return static_cast<double>(line.tokens) / 1e6; }

// By group, some number of it against tokens.
PictureScript group_picture(const std::vector<VariantDiagnostics>& all, std::string id, std::string title,
                            bool log_y, std::string remark,
                            const std::function<double(const GroupMeasurement&)>& number) {
  std::vector<Panel> panels;
  for (const std::string& group : measured_groups(all)) {
    Panel panel{group, "tokens (millions)", "", log_y};
    for (const VariantDiagnostics& v : all) {
      auto& points = panel.lines.emplace_back();
      for (const MetricsLine* line : v.lines)
        for (const GroupMeasurement& g : line->diagnostics->groups)
          if (g.parameters == group && g.update_norm > 0) points.push_back({millions(*line), number(g)});
    }
    panels.push_back(std::move(panel));
  }
  return picture(std::move(id), std::move(title), all, std::move(panels), std::move(remark));
}

}  // namespace

PictureScript spectrum_picture(const std::vector<VariantDiagnostics>& all, const std::string& matrix) {
  std::vector<Panel> panels;
  for (const char* of : {"weight", "momentum", "update"}) {
    Panel panel{of, "place (0: largest, 1: smallest)", "singular value", true};
    for (const VariantDiagnostics& v : all) {
      auto& points = panel.lines.emplace_back();
      const SpectrumMeasurement* s = last_spectrum(v, matrix, of);
      if (!s) continue;
      const auto count = static_cast<std::size_t>(std::min(s->rows, s->cols));
      const auto places = chosen_places(count, s->singular_values.size());
      for (std::size_t i = 0; i < places.size(); ++i)
        if (s->singular_values[i] >= kRounding * s->singular_values[0])
          points.push_back({count > 1 ? static_cast<double>(places[i]) / static_cast<double>(count - 1) : 0,
                            s->singular_values[i]});
    }
    panels.push_back(std::move(panel));
  }
  return picture("spectrum", fmt::format("Singular values of {} at the end", matrix), all, std::move(panels),
                 "");
}

PictureScript rank_picture(const std::vector<VariantDiagnostics>& all, RankKind kind) {
  const bool effective = kind == RankKind::effective;
  std::vector<Panel> panels;
  for (const char* of : {"weight", "momentum", "update"}) {
    Panel panel{of, "tokens (millions)", "share of the full rank"};
    for (const VariantDiagnostics& v : all) {
      auto& points = panel.lines.emplace_back();
      for (const MetricsLine* line : v.lines)
        points.push_back({millions(*line), mean_rank(*line->diagnostics, of, kind)});
    }
    panels.push_back(std::move(panel));
  }
  return picture(
      effective ? "effective-rank" : "stable-rank", effective ? "Effective rank" : "Stable rank", all,
      std::move(panels),
      effective ? "exp(entropy of s / sum s) (Roy and Vetterli 2007), as a share of the smaller side; mean "
                  "over the chosen matrices."
                : "|A|² / s₁², as a share of the smaller side; mean over the chosen matrices.");
}

PictureScript update_ratio_picture(const std::vector<VariantDiagnostics>& all) {
  return group_picture(all, "update-ratio", "Norm of a step's update against that of the weights", true,
                       "By group of parameters. Decay and constraints are in the update.",
                       [](const GroupMeasurement& g) { return g.update_to_weight; });
}

PictureScript cosine_picture(const std::vector<VariantDiagnostics>& all) {
  return group_picture(
      all, "update-cosine", "Cosine between update and steepest descent", false,
      "By group of parameters: 1 where the update is the negative gradient of the step, scaled.",
      [](const GroupMeasurement& g) { return g.cosine; });
}

PictureScript decile_picture(const std::vector<VariantDiagnostics>& all) {
  const auto baseline = std::find_if(all.begin(), all.end(), [](const VariantDiagnostics& v) {
    return v.baseline && !v.decile_loss.empty();
  });
  Panel losses{"loss", "decile, from frequent (1) to rare (10)", "nats per token"};
  Panel differences{baseline == all.end() ? "" : "above " + baseline->name, losses.x, "difference in nats"};
  for (const VariantDiagnostics& v : all) {
    auto &line = losses.lines.emplace_back(), &difference = differences.lines.emplace_back();
    for (std::size_t d = 0; d < v.decile_loss.size(); ++d) {
      const double x = static_cast<double>(d + 1);
      line.push_back({x, v.decile_loss[d]});
      if (baseline != all.end()) difference.push_back({x, v.decile_loss[d] - baseline->decile_loss[d]});
    }
  }
  return picture(
      "loss-deciles", "Final validation loss by how frequent the token is", all,
      {std::move(losses), std::move(differences)},
      "Tokens in ten classes of equally many occurrences in the training data. Means over the seeds of the "
      "best settings.");
}

}  // namespace spectrain
