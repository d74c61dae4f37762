#include "train/lab/lab_page.h"

#include <fmt/format.h>

#include <cmath>

#include "train/gnuplot.h"
#include "train/html_page.h"
#include "train/lab/lab_pictures.h"
#include "train/lab/lab_table.h"
#include "train/metrics.h"

namespace spectrain::lab {
namespace {

std::string place_of(const ExperimentRecord& r) { return "experiment-" + r.id; }

// Shown with four digits; all of them are in the page.
std::string datum(const char* kind, double value) {
  return fmt::format("<data class=\"{}\" value=\"{}\">{:.4g}</data>", kind, value, value);
}

std::string verdict_datum(const ExperimentRecord& r, const ClaimResult& c) {
  return fmt::format("<data class=\"verdict\" value=\"{0}\">{0}</data>", verdict_words(r, c));
}

std::string sentence_cell(const std::string& text) {
  return html_cell(html_escape(text), HtmlCell::sentence);
}

std::string labelled(const char* label, const std::string& text) {
  return text.empty() ? "" : fmt::format("<p><strong>{}</strong> {}</p>\n", label, html_escape(text));
}

std::string measured_cell(const ExperimentRecord& r, const ClaimResult& c) {
  std::string lines;
  for (const std::string& line : measured_lines(r, c))
    lines += fmt::format("{}{}", lines.empty() ? "" : "<br>", html_escape(line));
  return html_cell(lines, HtmlCell::sentence);
}

HtmlSection summary_section(const std::vector<ExperimentRecord>& records) {
  std::string rows;
  for (const ExperimentRecord& r : records)
    for (const ClaimResult& c : r.outcome.claims)
      rows += fmt::format("<tr><th scope=\"row\"><a href=\"#{}\">{}</a></th>{}{}{}</tr>\n", place_of(r), r.id,
                          sentence_cell(c.claim.sentence), measured_cell(r, c),
                          html_cell(verdict_datum(r, c), HtmlCell::text));
  std::string body =
      html_table({{"Experiment", true}, {"Claim", true}, {"Measured here", true}, {"Verdict", true}},
                 "Claims and verdicts", rows);
  body += html_paragraph(
      "A verdict is counted from the checks of its claim: it holds when all of them do, holds in part when "
      "some do, "
      "and does not hold here when none does. The checks with their bounds stand in the program; what is "
      "written "
      "here of their outcome was measured.",
      "note");
  return {"claims", "Claims and verdicts", body};
}

std::string claim_part(const ExperimentRecord& r, const ClaimResult& c) {
  std::string body = fmt::format("<h3>{}</h3>\n", html_escape(c.claim.sentence));
  body += labelled("Source:", c.claim.source);
  body += labelled("What would refute it:", c.claim.refuted_by);
  body += labelled("Remark:", c.claim.remark);
  if (!r.not_run.empty()) return body + labelled("Not run:", r.not_run);
  std::string rows;
  for (const Check& check : c.checks)
    rows += fmt::format("<tr>{}{}{}</tr>\n", sentence_cell(check.statement), sentence_cell(check.measured),
                        html_cell(check.holds ? "yes" : "no", HtmlCell::text));
  body += html_table({{"Check", true}, {"Measured", true}, {"Holds", true}}, "Checks of " + c.claim.id, rows);
  return body + fmt::format("<p><strong>Verdict:</strong> {}</p>\n", verdict_datum(r, c));
}

std::string difference(const Measurement& m) {
  if (!m.expected || *m.expected == 0 || !std::isfinite(*m.expected) || !std::isfinite(m.value)) return "";
  const double percent = 100 * (m.value - *m.expected) / std::abs(*m.expected);
  // Digits of the rounding say nothing.
  return std::abs(percent) < 1e-9 ? "< 1e-9 %" : fmt::format("{:+.2g} %", percent);
}

std::string measurement_part(const ExperimentRecord& r) {
  if (r.outcome.measurements.empty()) return "";
  std::string rows;
  for (const Measurement& m : r.outcome.measurements) {
    rows += "<tr>" + sentence_cell(m.name) + html_cell(datum("value", m.value));
    rows += html_cell(m.seeds > 1 ? datum("spread", m.spread) : "") + html_cell(fmt::format("{}", m.seeds));
    rows += html_cell(html_escape(m.unit), HtmlCell::text);
    rows += html_cell(m.expected ? datum("expected", *m.expected) : "") + html_cell(difference(m));
    rows += sentence_cell(m.expected_from) + "</tr>\n";
  }
  return "<h3>Numbers</h3>\n" + html_table({{"What", true},
                                            {"Measured", false},
                                            {"Deviation over seeds", false},
                                            {"Seeds", false},
                                            {"Unit", true},
                                            {"Expected", false},
                                            {"Difference", false},
                                            {"Expected from", true}},
                                           "Numbers of " + r.id, rows);
}

std::string list_part(const char* title, const std::vector<std::string>& lines, bool code) {
  if (lines.empty()) return "";
  std::string items;
  for (const std::string& line : lines)
    items += code ? fmt::format("<li><code>{}</code></li>\n", html_escape(line))
                  : fmt::format("<li>{}</li>\n", html_escape(line));
  return fmt::format("<h3>{}</h3>\n<ul>\n{}</ul>\n", title, items);
}

std::string picture_part(const ExperimentRecord& r, bool& no_gnuplot) {
  std::string body;
  std::size_t number = 0;
  for (const Picture& p : r.outcome.pictures) {
    const PictureScript script = script_of(p, fmt::format("{}-picture-{}", r.id, ++number));
    if (script.script.empty()) {
      body += html_paragraph(fmt::format("The picture \"{}\" has no point that could be drawn.", p.title));
      continue;
    }
    if (no_gnuplot) continue;
    try {
      body += figure(script);
    } catch (const GnuplotMissing& missing) {
      no_gnuplot = true;  // said once
      body += html_paragraph(fmt::format("There are no pictures: {}.", missing.what()));
    }
  }
  return body;
}

HtmlSection experiment_section(const ExperimentRecord& r, bool& no_gnuplot) {
  std::string body;
  for (const ClaimResult& c : r.outcome.claims) body += claim_part(r, c);
  body += measurement_part(r) + picture_part(r, no_gnuplot);
  body += list_part("Notes", r.outcome.notes, false);
  body += list_part("Options that are not as by default", r.changed, true);
  const std::string took = r.not_run.empty() ? fmt::format("{:.1f} seconds; ", r.seconds) : "";
  body += html_paragraph(
      fmt::format("Experiment {} of {}{}; {}seed {}; {}; spectrain {}; {}", r.experiment, r.file,
                  r.quick ? " in its quick form" : "", took, r.seed, r.device, r.version, r.finished),
      "note");
  return {place_of(r), r.id + ": " + r.title, body};
}

}  // namespace

std::string lab_page(const std::vector<ExperimentRecord>& records, const std::string& version) {
  HtmlPage page;
  page.title = "The laboratory";
  page.lead = verdict_counts(records);
  page.about = fmt::format("{} experiment{}; spectrain {}; written {}", records.size(),
                           records.size() == 1 ? "" : "s", version, utc_now());
  page.sections = {summary_section(records)};
  bool no_gnuplot = false;
  for (const ExperimentRecord& r : records) page.sections.push_back(experiment_section(r, no_gnuplot));
  return to_html(page);
}

}  // namespace spectrain::lab
