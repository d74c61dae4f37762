#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "train/compare_sections.h"

namespace spectrain {
namespace {

std::optional<double> number_in(const MetricsLine& line, const std::string& name) {
  for (const auto& [key, value] : line.more) {
    if (key != name) continue;
    if (const auto* real = std::get_if<double>(&value)) return *real;
    if (const auto* whole = std::get_if<std::int64_t>(&value)) return static_cast<double>(*whole);
  }
  return std::nullopt;
}

bool flag_in(const MetricsLine& line, const std::string& name) {
  for (const auto& [key, value] : line.more)
    if (key == name) return std::holds_alternative<bool>(value) && std::get<bool>(value);
  return false;
}

// Gradient norms and steps without an update, over the runs of a variant's best point.
struct Course {
  std::vector<double> norms;
  std::size_t skipped = 0, steps = 0;
};
Course course_of(const ComparedRuns& results, const VariantStatistics& v) {
  Course course;
  if (!v.best) return course;
  for (const std::size_t r : v.points[*v.best].runs)
    for (const MetricsLine& line : results.runs[r].metrics.lines) {
      if (!line.train_loss) continue;
      ++course.steps;
      if (flag_in(line, "skipped")) ++course.skipped;
      if (const auto norm = number_in(line, "gradient_norm"); norm && std::isfinite(*norm))
        course.norms.push_back(*norm);
    }
  std::sort(course.norms.begin(), course.norms.end());
  return course;
}

HtmlSection gradient_section(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::string rows;
  for (const VariantStatistics& v : all.ranking) {
    const Course course = course_of(results, v);
    if (course.norms.empty()) continue;
    const auto at = [&](double share) {
      return course.norms[static_cast<std::size_t>(share * static_cast<double>(course.norms.size() - 1))];
    };
    rows += fmt::format(
        "<tr><th scope=\"row\">{}</th><td>{:.3g}</td><td>{:.3g}</td><td>{:.3g}</td><td>{} of {}</td></tr>\n",
        html_escape(results.variants[v.variant].name), at(0.5), at(0.99), at(1), course.skipped,
        course.steps);
  }
  if (rows.empty()) return {};
  return {"gradients", "Gradients along the runs",
          "<div class=\"wide\" role=\"region\" aria-label=\"Gradient norms\" tabindex=\"0\"><table "
          "aria-label=\"Gradient norms\">\n<thead><tr><th scope=\"col\" class=\"t\">Variant</th><th "
          "scope=\"col\">Gradient norm, median</th><th scope=\"col\">99 % below</th><th "
          "scope=\"col\">Largest</th><th scope=\"col\">Steps skipped for a gradient that was not "
          "finite</th></tr></thead>\n<tbody>\n" +
              rows +
              "</tbody></table></div>\n<p class=\"note\">Before clipping, over all runs with the best "
              "settings, at the steps that were written down.</p>\n"};
}

}  // namespace

std::vector<HtmlSection> diagnostic_sections(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::vector<HtmlSection> sections = {gradient_section(results, all)};
  std::erase_if(sections, [](const HtmlSection& s) { return s.body.empty(); });
  return sections;
}

}  // namespace spectrain
