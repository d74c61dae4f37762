#include "train/compare_sections.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace spectrain {
namespace {

std::string name_of(const ComparedRuns& results, const VariantStatistics& v) {
  return results.variants[v.variant].name;
}

// A number of results.csv: its column, what stands there, and what is shown of it.
std::string number(const SummaryRow& row, const std::string& key) {
  const SummaryField& f = field(row, key);
  // How many reached the target is said beside it.
  if (f.value.empty()) return key.ends_with("_to_target") ? "-" : html_escape(f.shown);
  return fmt::format("<data class=\"{}\" value=\"{}\">{}</data>", f.key, html_escape(f.value),
                     html_escape(f.shown));
}

std::string cell(const std::string& html, bool text = false) {
  return html_cell(html, text ? HtmlCell::text : HtmlCell::number);
}

std::string row_begin(const SummaryRow& row, bool first) {
  return fmt::format("<tr{}><th scope=\"row\">{}</th>", first ? " class=\"win\"" : "",
                     number(row, "variant"));
}

std::string loss_table(const ComparedRuns& results, const std::vector<SummaryRow>& rows) {
  const bool track3 = results.rule == SignificanceRule::track3;
  std::string body;
  for (const SummaryRow& row : rows) {
    const std::string& se = field(row, "standard_error").value;
    body += row_begin(row, &row == &rows.front()) + cell(number(row, "best_settings"), true);
    body += cell(number(row, "n"));
    body += cell(number(row, "final_loss") + (se.empty() ? "" : " ± " + number(row, "standard_error")));
    body += cell(number(row, "difference")) + cell(number(row, track3 ? "margin" : "p"));
    body += cell(number(row, "verdict"), true) + cell(number(row, "speed_up")) + "</tr>\n";
  }
  return html_table({{"Variant", true},
                     {"Best settings", true},
                     {"Seeds", false},
                     {"Final validation loss", false},
                     {"Against " + results.baseline, false},
                     {track3 ? "Margin" : "p (Holm)", false},
                     {"Verdict", true},
                     {"Speed-up", false}},
                    "Final losses", body);
}

std::string cost_table(const std::vector<SummaryRow>& rows) {
  std::string body;
  for (const SummaryRow& row : rows) {
    body += row_begin(row, &row == &rows.front());
    for (const char* key :
         {"reached", "steps_to_target", "tokens_to_target", "seconds_to_target", "flops_to_target",
          "seconds_per_step", "optimizer_flops_share", "state_bytes_per_parameter"})
      body += cell(number(row, key));
    body += "</tr>\n";
  }
  return html_table({{"Variant", true},
                     {"Reached target", false},
                     {"Steps to target", false},
                     {"Tokens to target", false},
                     {"Seconds to target", false},
                     {"FLOPs to target", false},
                     {"Seconds per step", false},
                     {"Optimizer's share of FLOPs", false},
                     {"State bytes per parameter", false}},
                    "Targets and costs", body);
}

std::string speed_up_words(const ComparedRuns& results, const ComparisonStatistics& all) {
  if (all.law)
    return fmt::format(
        "Speed-up: how many times the tokens of the variant the baseline {} needs for the same final loss, "
        "by "
        "the law that its final losses with several budgets of tokens follow (below).",
        results.baseline);
  return fmt::format(
      "Speed-up, in tokens over the tuned baseline {}, is a bound here, for the baseline was trained for {}. "
      "\"≥\": the variant's curve passes the baseline's final loss that much earlier, with its learning rate "
      "not "
      "yet decayed; with a schedule made for the shorter run it should be there no later. \"≤\": the "
      "baseline's "
      "curve passes the variant's final loss that early, in the same way. How far the true factor lies from "
      "the "
      "bound is not known.",
      results.baseline,
      all.budgets.size() < 3 ? "too few budgets of tokens" : "several budgets, but its losses follow no law");
}

// The law behind the speed-ups, so that a reader can judge it.
std::vector<HtmlSection> law_section(const ComparedRuns& results, const ComparisonStatistics& all) {
  if (all.budgets.size() < 2) return {};
  std::string rows;
  bool tuned = true;
  for (const BudgetLoss& b : all.budgets) {
    tuned = tuned && b.settings > 1;
    rows += fmt::format("<tr><th scope=\"row\">{:.0f}</th>", b.tokens) + cell(loss_text(b.loss)) +
            cell(fmt::format("{}", b.settings));
    rows += cell(all.law ? loss_text(all.law->a * std::pow(b.tokens, -all.law->b) + all.law->c) : "-") +
            "</tr>\n";
  }
  std::string body;
  if (all.law)
    body = html_paragraph(fmt::format(
        "L(D) = {:.4g} D^-{:.3f} + {:.4f} for the final loss of {} after D tokens, by least squares; the "
        "largest "
        "residual is {:.4f}. A speed-up is the D at which this law has the variant's loss, divided by the "
        "variant's tokens; beyond the budgets below it is an extrapolation.",
        all.law->a, all.law->b, all.law->c, results.baseline, all.law->worst));
  else
    body = html_paragraph(
        fmt::format("The final losses of {} are not enough for a law L(D) = a D^-b + c, or do not "
                    "fall like one.",
                    results.baseline));
  if (!tuned)
    body += html_paragraph(
        "Not every budget was swept: where one setting was tried, it is the one that is best for the "
        "budget of the comparison, and the baseline may do better there than shown.");
  body +=
      html_table({{"Tokens", true}, {"Final loss", false}, {"Settings tried", false}, {"By the law", false}},
                 "Budgets of the baseline", rows);
  return {{"law", "The baseline with other budgets", body}};
}

HtmlSection summary_section(const ComparedRuns& results, const ComparisonStatistics& all,
                            const std::vector<SummaryRow>& rows) {
  std::string body = loss_table(results, rows) + cost_table(rows);
  body += html_paragraph(
      fmt::format("Ranked by the final validation loss alone: the last of a run, at the end of "
                  "the learning rate's decay (mean ± standard error over seeds). The target is "
                  "{:.4f}{}; what it took to get there is interpolated between validations and "
                  "averaged over the runs that did.",
                  all.target, all.target_given ? "" : ", the final mean of the baseline " + results.baseline),
      "note");
  return {"summary", "Summary", body + html_paragraph(speed_up_words(results, all), "note")};
}

std::string verdict_words(const ComparedRuns& results, const ComparisonStatistics& all, const Comparison& c) {
  using Verdict = Comparison::Verdict;
  const std::string a = name_of(results, all.ranking[c.a]), b = name_of(results, all.ranking[c.b]);
  if (c.verdict == Verdict::unknown) return "not tested";
  if (c.verdict == Verdict::open) return "within the noise";
  return fmt::format("{} is better", c.verdict == Verdict::lower ? a : b);
}

std::string rule_words(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::string sigma = "The deviation between seeds is not known: no settings have two seeds.";
  if (all.sigma && all.sigma_degrees > 0)
    sigma = fmt::format(
        "The deviation between seeds is {:.4f}, pooled over the best settings of all variants ({} degrees of "
        "freedom).",
        *all.sigma, all.sigma_degrees);
  else if (all.sigma)
    sigma = fmt::format("The deviation between seeds is taken to be {:.4f}, as the plan says.", *all.sigma);
  if (results.rule != SignificanceRule::track3)
    return std::string(results.rule == SignificanceRule::welch
                           ? "Welch's t test, two-sided,"
                           : "Student's t test of the differences of runs with the same seed, two-sided,") +
           " between each variant and the baseline and between neighbours in the ranking; p values corrected "
           "by Holm over all of these. Below 0.05 a difference counts as real. " +
           sigma;
  return sigma +
         fmt::format(
             " Track-3 rule: a difference of means divided by sqrt(1/n1 + 1/n2) counts as real from "
             "{:.4f} on ({:.4g} for a deviation of {}), where the numbers of steps differ with 0.0045 "
             "for every 100 of them.",
             all.threshold, results.threshold, kTrack3Sigma);
}

HtmlSection differences_section(const ComparedRuns& results, const ComparisonStatistics& all) {
  const bool track3 = results.rule == SignificanceRule::track3;
  std::string rows;
  for (const Comparison& c : all.comparisons) {
    rows += fmt::format("<tr><th scope=\"row\">{}</th>", html_escape(name_of(results, all.ranking[c.a])));
    rows += cell(html_escape(name_of(results, all.ranking[c.b])), true) +
            cell(fmt::format("{:+.4f}", c.difference));
    if (track3)
      rows += cell(all.sigma ? fmt::format("{:+.4f}", *c.margin) : "-");
    else
      rows += cell(c.test ? fmt::format("{:.2f}", c.test->t) : "-") +
              cell(c.test ? fmt::format("{:.1f}", c.test->degrees) : "-") +
              cell(c.test ? p_text(c.test->p) : "-") + cell(c.p ? p_text(*c.p) : "-");
    rows += cell(html_escape(verdict_words(results, all, c)), true) + "</tr>\n";
  }
  std::vector<std::pair<std::string, bool>> headings = {
      {"Variant", true}, {"Against", true}, {"Difference", false}};
  for (const char* words : track3 ? std::vector<const char*>{"Margin"}
                                  : std::vector<const char*>{"t", "Degrees of freedom", "p", "p (Holm)"})
    headings.emplace_back(words, false);
  headings.emplace_back("Verdict", true);
  std::string body = html_paragraph(rule_words(results, all)) + html_table(headings, "Differences", rows);
  if (track3 && all.target_given && all.sigma) {
    body += "<ul>\n";
    for (const VariantStatistics& v : all.ranking)
      if (v.target_margin)
        body += fmt::format("<li>{}: (target - mean) sqrt(n) = {:.4f}, so that it {} to reach {:.4f}.</li>\n",
                            html_escape(name_of(results, v)), *v.target_margin,
                            v.claims_target ? "may claim" : "may not claim", all.target);
    body += "</ul>\n";
  }
  return {"differences", "Which differences are real", body};
}

HtmlSection settings_section(const ComparedRuns& results) {
  std::string body;
  for (const ComparedVariant& v : results.variants) {
    body += fmt::format("<h3>{}</h3>\n", html_escape(v.name));
    if (v.differences.empty()) {
      body += html_paragraph("As the base configuration.");
      continue;
    }
    body += "<ul>\n";
    for (const std::string& d : v.differences)
      body += fmt::format("<li><code>{}</code></li>\n", html_escape(d));
    body += "</ul>\n";
  }
  return {"settings", "What each variant changes", body};
}

std::string runs_word(std::size_t n) { return n == 1 ? "1 run" : fmt::format("{} runs", n); }

// Everything about grids and runs that a reader has to know before believing a number.
HtmlSection caution_section(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::vector<std::string> words;
  for (const GridExtension& e : results.extensions)
    words.push_back(
        fmt::format("{}: the grid of {} was extended {} to {:.4g}, because the best value lay at its "
                    "edge.",
                    e.variant, e.axis, e.upward ? "upward" : "downward", e.value));
  for (const VariantStatistics& s : all.ranking) {
    const ComparedVariant& v = results.variants[s.variant];
    std::size_t gone = 0;
    for (const PointStatistics& p : s.points) gone += p.diverged;
    gone = std::max(gone, v.failed);
    if (v.at_edge)
      words.push_back(
          fmt::format("{}: the best value still lies at the edge of the grid, with all extensions "
                      "used; a wider grid may find a better one.",
                      v.name));
    if (s.points.empty()) words.push_back(fmt::format("{}: no run of it is finished.", v.name));
    if (gone > 0)
      words.push_back(
          fmt::format("{}: {} diverged and {} no final loss; settings with such a run of the sweep "
                      "count as infinitely bad.",
                      v.name, runs_word(gone), gone == 1 ? "has" : "have"));
    if (s.diverged > 0)
      words.push_back(
          fmt::format("{}: {} at its best settings diverged, so that it is ranked behind all "
                      "variants without such runs.",
                      v.name, runs_word(s.diverged)));
    if (v.unfinished > 0)
      words.push_back(fmt::format("{}: {} that the plan asks for {} not there (yet); its numbers may change.",
                                  v.name, runs_word(v.unfinished), v.unfinished == 1 ? "is" : "are"));
  }
  if (words.empty())
    words.emplace_back(
        "All runs that the plan asks for are there, none diverged, no grid was extended, and no best value "
        "lies "
        "at the edge of its grid.");
  std::string body = "<ul>\n";
  for (const std::string& w : words) body += fmt::format("<li>{}</li>\n", html_escape(w));
  return {"grids", "Grids and runs", body + "</ul>\n"};
}

HtmlSection method_section(const ComparedRuns& results) {
  std::string body = "<ul>\n";
  for (const std::string& words :
       {std::string("Every run sees the same data in the same order, with the same model, batch, number of "
                    "tokens and precision; a seed gives all variants the same initial weights."),
        std::string("Losses are compared at the end of the decay only. Before it the learning rates are not "
                    "comparable, and the order of curves often turns around; the curves are shown for what "
                    "they are."),
        std::string(
            "The best settings of a variant are those with the lowest mean over the seeds of the sweep; "
            "its final numbers are of all seeds with these settings. Where the sweep's seeds are among "
            "them, the chosen mean is slightly too good, for every variant alike where the grids are "
            "equally large."),
        std::string("Seconds are those of the training clock, without validation, checkpoints and start."),
        std::string("FLOPs = tokens x FLOPs per token (forward and backward pass) + steps x FLOPs of the "
                    "optimizer's step, both counted from shapes, not measured."),
        "Machine: " + (results.hardware.empty() ? "not known" : results.hardware) + ".",
        "Program: " + (results.version.empty() ? "version not known" : results.version) + "."})
    body += fmt::format("<li>{}</li>\n", html_escape(words));
  return {"method", "How it was measured", body + "</ul>\n"};
}

}  // namespace

std::vector<HtmlSection> report_sections(const ComparedRuns& results, const ComparisonStatistics& all,
                                         const std::vector<SummaryRow>& rows) {
  std::vector<HtmlSection> sections = {summary_section(results, all, rows)};
  const auto append = [&](std::vector<HtmlSection> more) {
    std::move(more.begin(), more.end(), std::back_inserter(sections));
  };
  append(picture_sections(results, all));
  if (!all.comparisons.empty()) sections.push_back(differences_section(results, all));
  append(law_section(results, all));
  sections.push_back(caution_section(results, all));
  sections.push_back(settings_section(results));
  append(diagnostic_sections(results, all));
  sections.push_back(method_section(results));
  if (!results.base_yaml.empty())
    sections.push_back(
        {"base", "Base configuration",
         fmt::format("<details><summary>The configuration that every variant changes</summary>\n"
                     "<pre><code>{}</code></pre></details>\n",
                     html_escape(results.base_yaml))});
  return sections;
}

}  // namespace spectrain
