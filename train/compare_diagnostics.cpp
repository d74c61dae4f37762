#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "train/compare_sections.h"
#include "train/diagnostic_pictures.h"
#include "train/gnuplot.h"

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

// Tables stand alone where there is no gnuplot: the section of the losses' pictures has said so.
std::string drawing(const PictureScript& picture) {
  if (picture.script.empty()) return {};
  try {
    return figure(picture);
  } catch (const GnuplotMissing&) {
    return {};
  }
}

// More say less, and each is a picture of every variant.
constexpr std::size_t kMostSpectra = 6;

std::string table(const std::string& name, const std::vector<std::string>& columns, const std::string& rows) {
  HtmlHeadings headings;
  for (const std::string& c : columns) headings.emplace_back(c, headings.empty());
  return html_table(headings, name, rows);
}

std::string table_row(const std::string& name, const std::vector<double>& values, const char* format) {
  std::string cells;
  for (const double v : values)
    cells += fmt::format("<td>{}</td>", std::isfinite(v) ? fmt::format(fmt::runtime(format), v) : "-");
  return fmt::format("<tr><th scope=\"row\">{}</th>{}</tr>\n", html_escape(name), cells);
}

HtmlSection spectra_section(const std::vector<VariantDiagnostics>& all) {
  const std::vector<std::string> matrices = measured_matrices(all);
  if (matrices.empty()) return {};
  std::string rows;
  for (const VariantDiagnostics& v : all) {
    if (v.lines.empty()) continue;
    std::vector<double> ranks;
    for (const char* of : {"weight", "momentum", "update"})
      for (const RankKind kind : {RankKind::effective, RankKind::stable})
        ranks.push_back(100 * last_mean_rank(v, of, kind));
    rows += table_row(v.name, ranks, "{:.1f}");
  }
  HtmlSection section{
      "spectra", "Spectra of the matrices",
      table("Ranks at the end",
            {"Variant", "Weights: effective rank, %", "stable rank, %", "Momentum: effective rank, %",
             "stable rank, %", "Update: effective rank, %", "stable rank, %"},
            rows)};
  section.body += fmt::format(
      "<p class=\"note\">At the last measurement, in percent of the smaller side; means over {} matrices. "
      "One "
      "run of each variant's best settings.</p>\n",
      matrices.size());
  section.body += drawing(rank_picture(all, RankKind::effective));
  section.body += drawing(rank_picture(all, RankKind::stable));
  bool drawn = false;
  for (std::size_t i = 0; i < std::min(matrices.size(), kMostSpectra); ++i) {
    PictureScript picture = spectrum_picture(all, matrices[i]);
    picture.id = fmt::format("spectrum-{}", i);
    if (picture.script.empty()) continue;  // diagnostics.spectrum was 0
    section.body += drawing(picture);
    drawn = true;
  }
  if (drawn && matrices.size() > kMostSpectra)
    section.body += fmt::format("<p class=\"note\">{} more matrices are in the runs' metrics.jsonl.</p>\n",
                                matrices.size() - kMostSpectra);
  return section;
}

double median(std::vector<double> values) {
  std::erase_if(values, [](double v) { return !std::isfinite(v); });
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

HtmlSection updates_section(const std::vector<VariantDiagnostics>& all) {
  std::string rows;
  for (const std::string& group : measured_groups(all))
    for (const VariantDiagnostics& v : all) {
      std::vector<double> ratios, cosines;
      double weight = std::numeric_limits<double>::quiet_NaN();
      std::string rule;
      for (const MetricsLine* line : v.lines)
        for (const GroupMeasurement& g : line->diagnostics->groups)
          if (g.parameters == group) {
            if (g.update_norm > 0) {
              ratios.push_back(g.update_to_weight);
              cosines.push_back(g.cosine);
            }
            weight = g.weight_norm;
            rule = g.rule;
          }
      if (!rule.empty())
        rows += table_row(fmt::format("{}: {} by {}", v.name, group, rule),
                          {median(ratios), median(cosines), weight}, "{:.3g}");
    }
  if (rows.empty()) return {};
  HtmlSection section{"updates", "Updates against weights and gradients",
                      table("Updates",
                            {"Variant and parameters", "Update / weights, median", "Cosine, median",
                             "Norm of the weights at the end"},
                            rows)};
  section.body += drawing(update_ratio_picture(all)) + drawing(cosine_picture(all));
  return section;
}

HtmlSection decile_section(const std::vector<VariantDiagnostics>& all) {
  std::string rows;
  for (const VariantDiagnostics& v : all)
    if (!v.decile_loss.empty()) rows += table_row(v.name, v.decile_loss, "{:.4f}");
  if (rows.empty()) return {};
  std::vector<std::string> columns = {"Variant"};
  for (std::size_t d = 1; d <= 10; ++d)
    columns.push_back(d == 1 ? "1, frequent" : d == 10 ? "10, rare" : fmt::format("{}", d));
  HtmlSection section{"deciles", "Loss by how frequent the token is",
                      table("Final validation loss by decile of token frequency", columns, rows)};
  section.body += drawing(decile_picture(all));
  return section;
}

}  // namespace

std::vector<HtmlSection> diagnostic_sections(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::vector<HtmlSection> sections = {gradient_section(results, all)};
  const std::vector<VariantDiagnostics> measured = variant_diagnostics(results, all);
  sections.push_back(updates_section(measured));
  sections.push_back(spectra_section(measured));
  sections.push_back(decile_section(measured));
  std::erase_if(sections, [](const HtmlSection& s) { return s.body.empty(); });
  return sections;
}

}  // namespace spectrain
