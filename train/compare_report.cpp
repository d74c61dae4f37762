#include "train/compare_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "train/compare_fields.h"
#include "train/compare_sections.h"
#include "train/compare_statistics.h"
#include "train/durable_file.h"
#include "train/html_page.h"

namespace spectrain {
namespace {

using nlohmann::ordered_json;

ordered_json number(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

// RFC 4180: quoted where it has to be, quotes doubled.
std::string csv_field(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string out = "\"";
  for (const char c : text) out += c == '"' ? std::string("\"\"") : std::string(1, c);
  return out + "\"";
}

std::string csv(const std::vector<SummaryRow>& rows) {
  std::string text;
  const auto line = [&](const SummaryRow& row, bool heading) {
    for (std::size_t i = 0; i < row.size(); ++i)
      text += (i == 0 ? "" : ",") + csv_field(heading ? row[i].key : row[i].value);
    text += "\n";
  };
  line(rows.front(), true);
  for (const SummaryRow& row : rows) line(row, false);
  return text;
}

bool has_best_settings(const ComparisonStatistics& all, std::size_t index) {
  for (const VariantStatistics& v : all.ranking) {
    if (!v.best) continue;
    const auto& runs = v.points[*v.best].runs;
    if (std::find(runs.begin(), runs.end(), index) != runs.end()) return true;
  }
  return false;
}

ordered_json run_object(const ComparedRuns& results, const ComparisonStatistics& all, const ComparedRun& run,
                        bool best, bool horizon) {
  ordered_json point = ordered_json::object(), curve = ordered_json::array();
  for (const auto& [name, value] : run.point) point[name] = number(value);
  for (const ValidationPoint& p : run.validation)
    curve.push_back({{"step", number(p.step)},
                     {"tokens", number(p.tokens)},
                     {"seconds", number(p.seconds)},
                     {"loss", number(p.loss)}});
  const double seconds = run.validation.empty() ? 0 : run.validation.back().seconds;
  ordered_json object = {{"comparison", results.name},
                         {"variant", run.variant},
                         {"point", point},
                         {"seed", run.seed},
                         {"best_settings", best},
                         {"other_budget", horizon},
                         {"diverged", diverged(run)},
                         {"final_loss", number(final_loss(run))},
                         {"steps", number(final_steps(run))},
                         {"tokens", number(final_tokens(run))},
                         {"seconds", number(seconds)},
                         {"flops_per_token", number(run.flops_per_token)},
                         {"optimizer_flops_per_step", number(run.optimizer_flops_per_step)},
                         {"optimizer_state_bytes", number(run.optimizer_bytes)},
                         {"parameters", run.parameters},
                         {"target", number(all.target)}};
  const auto at = diverged(run) ? std::nullopt : first_crossing(run.validation, all.target);
  object["steps_to_target"] = at ? number(at->step) : ordered_json();
  object["tokens_to_target"] = at ? number(at->tokens) : ordered_json();
  object["seconds_to_target"] = at ? number(at->seconds) : ordered_json();
  object["flops_to_target"] = at ? number(flops_at(run, *at)) : ordered_json();
  object["directory"] = run.directory;
  object["config_hash"] = run.metrics.header.config_hash;
  object["version"] = run.metrics.header.version;
  object["device"] = run.metrics.header.device;
  object["started"] = run.metrics.header.started;
  object["validation"] = curve;
  return object;
}

std::string json_lines(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::string text;
  const auto add = [&](const ComparedRun& run, bool best, bool horizon) {
    text += run_object(results, all, run, best, horizon)
                .dump(-1, ' ', false, ordered_json::error_handler_t::replace) +
            "\n";
  };
  for (std::size_t i = 0; i < results.runs.size(); ++i)
    add(results.runs[i], has_best_settings(all, i), false);
  for (const ComparedRun& run : results.horizons) add(run, false, true);
  return text;
}

std::string page(const ComparedRuns& results, const ComparisonStatistics& all,
                 const std::vector<SummaryRow>& rows) {
  HtmlPage out;
  out.title = results.name.empty() ? "Comparison of optimizers" : "Comparison: " + results.name;
  out.lead = headline(results, all);
  out.about = fmt::format("{} runs of {} variants; {}; spectrain {}; written {}", results.runs.size(),
                          results.variants.size(), results.hardware, results.version, utc_now());
  out.sections = report_sections(results, all, rows);
  return to_html(out);
}

// Signs like ± take several bytes and one column.
std::size_t columns_of(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

struct Column {
  std::string heading;
  bool text = false;
  std::vector<std::string> cells;
};

std::vector<Column> summary_columns(const ComparedRuns& results, const std::vector<SummaryRow>& rows) {
  const bool track3 = results.rule == SignificanceRule::track3;
  std::vector<Column> columns;
  const auto add = [&](std::string heading, bool text, auto&& cell) {
    columns.push_back({std::move(heading), text, {}});
    for (const SummaryRow& row : rows) columns.back().cells.push_back(cell(row));
  };
  const auto shown = [](const char* key) {
    return [key](const SummaryRow& row) { return field(row, key).shown; };
  };
  add("variant", true, shown("variant"));
  add("best settings", true, shown("best_settings"));
  add("n", false, shown("n"));
  add("final loss", false, [](const SummaryRow& row) {
    const std::string& se = field(row, "standard_error").value;
    return field(row, "final_loss").shown + (se.empty() ? "" : " ± " + se);
  });
  add("against " + results.baseline, false, shown("difference"));
  add(track3 ? "margin" : "p", false, shown(track3 ? "margin" : "p"));
  add("verdict", true, shown("verdict"));
  add("speed-up", false, shown("speed_up"));
  add("tokens to target", false, shown("tokens_to_target"));
  add("s/step", false, shown("seconds_per_step"));
  add("state B/param", false, shown("state_bytes_per_parameter"));
  return columns;
}

// A name may hold what ends a cell or a line.
std::string one_cell(std::string text, bool markdown) {
  std::replace_if(
      text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  if (!markdown) return ascii(std::move(text));
  for (std::size_t at = 0; (at = text.find('|', at)) != std::string::npos; at += 2) text.insert(at, "\\");
  return text;
}

}  // namespace

void write_report(const ComparedRuns& results, const std::string& directory) {
  const ComparisonStatistics all = compare_statistics(results);
  const auto rows = summary_rows(results, all);
  // The page last: it is what people open, and then the rest is there.
  replace_file(directory + "/results.jsonl", json_lines(results, all));
  replace_file(directory + "/results.csv", csv(rows));
  replace_file(directory + "/report.html", page(results, all, rows));
}

std::string summary_table(const ComparedRuns& results, bool markdown) {
  const ComparisonStatistics all = compare_statistics(results);
  const auto rows = summary_rows(results, all);
  std::vector<Column> columns = summary_columns(results, rows);
  std::vector<std::string> lines(rows.size() + 2, markdown ? "|" : "");
  for (Column& column : columns) {
    column.cells.insert(column.cells.begin(), column.heading);
    std::size_t width = 2;
    for (std::string& c : column.cells) {
      c = one_cell(std::move(c), markdown);
      width = std::max(width, columns_of(c));
    }
    const std::string rule = std::string(width - 1, '-') + (markdown && !column.text ? ":" : "-");
    column.cells.insert(column.cells.begin() + 1, rule);
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const std::string gap(width - columns_of(column.cells[i]), ' ');
      const std::string cell = column.text ? column.cells[i] + gap : gap + column.cells[i];
      lines[i] += markdown ? " " + cell + " |" : (lines[i].empty() ? "" : "  ") + cell;
    }
  }
  std::string text;
  for (std::string& line : lines) {
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  const std::string lead = headline(results, all);
  return text + "\n" + (markdown ? lead : ascii(lead)) + "\n";
}

}  // namespace spectrain
