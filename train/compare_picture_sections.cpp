#include <fmt/format.h>

#include <algorithm>

#include "train/compare_pictures.h"
#include "train/compare_sections.h"
#include "train/gnuplot.h"

namespace spectrain {

namespace {

// Axes of the grids with more than one value anywhere, the learning rate first.
std::vector<std::string> swept_axes(const ComparedRuns& results) {
  std::vector<std::pair<std::string, double>> first;  // and its first value
  std::vector<std::string> axes;
  for (const ComparedRun& run : results.runs)
    for (const auto& [name, value] : run.point) {
      const auto named = [&n = name](const auto& entry) { return entry.first == n; };
      const auto found = std::find_if(first.begin(), first.end(), named);
      if (found == first.end())
        first.emplace_back(name, value);
      else if (found->second != value && std::find(axes.begin(), axes.end(), name) == axes.end())
        axes.push_back(name);
    }
  std::stable_partition(axes.begin(), axes.end(), [](const std::string& name) { return name == "lr"; });
  return axes;
}

}  // namespace

std::vector<HtmlSection> picture_sections(const ComparedRuns& results, const ComparisonStatistics& all) {
  const auto& ranking = all.ranking;
  if (std::none_of(ranking.begin(), ranking.end(), [](const auto& v) { return v.best.has_value(); }))
    return {};
  try {
    std::vector<HtmlSection> sections = {{"losses", "Losses", figure(final_loss_picture(results, all))}};
    sections[0].body +=
        "<p class=\"note\">Curves are means over the seeds of the best settings. Only their ends are "
        "compared: before, the learning rates have not decayed, and the order means little.</p>\n";
    for (const CurveAxis axis : {CurveAxis::tokens, CurveAxis::seconds, CurveAxis::flops})
      sections[0].body += figure(curve_picture(results, all, axis));
    const auto axes = swept_axes(results);
    std::string sweeps;
    for (std::size_t i = 0; i < axes.size(); ++i) {
      PictureScript picture = sensitivity_picture(results, all, axes[i]);
      picture.id = fmt::format("sweep-{}", i);
      sweeps += figure(picture);
    }
    if (!sweeps.empty()) sections.push_back({"sensitivity", "Sensitivity to the settings", sweeps});
    sections.push_back({"cost", "Cost and memory of the optimizers", figure(cost_picture(results, all))});
    return sections;
  } catch (const GnuplotMissing& e) {
    return {{"pictures", "Pictures", fmt::format("<p>There are none: {}.</p>\n", html_escape(e.what()))}};
  }
}

}  // namespace spectrain
