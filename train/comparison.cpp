#include "train/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "train/progress.h"

namespace spectrain {
namespace {

using Row = std::vector<std::string>;

double target_of(std::span<const RunCurves> runs, double target) {
  for (const RunCurves& run : runs)
    if (target == 0) target = run.target;
  return target;
}

Row row_of(const RunCurves& run, double target) {
  const auto& val = run.validation;
  ValidationPoint last;
  if (!run.training.empty()) last = run.training.back();
  if (!val.empty() && val.back().tokens >= last.tokens) last = val.back();
  double best = INFINITY;
  for (const ValidationPoint& p : val)
    if (p.loss < best) best = p.loss;
  const auto loss = [&](double v) {
    return val.empty() || !std::isfinite(v) ? "-" : fmt::format("{:.4f}", v);
  };
  Row row = {run.name,
             run.optimizer.empty() ? "-" : run.optimizer,
             human_count(last.tokens),
             loss(val.empty() ? NAN : val.back().loss),
             loss(best),
             fmt::format("{:.1f}", last.seconds),
             last.seconds > 0 ? human_count(std::round(last.tokens / last.seconds)) : "-"};
  if (target > 0) {
    const auto crossing = first_crossing(val, target);
    row.push_back(crossing ? human_count(std::round(crossing->tokens)) : "not reached");
    row.push_back(crossing ? fmt::format("{:.1f}", crossing->seconds) : "not reached");
  }
  return row;
}

std::string line_of(const Row& row, const std::vector<std::size_t>& widths, bool markdown) {
  std::string line = markdown ? "|" : "";
  for (std::size_t c = 0; c < row.size(); ++c) {
    const bool left = c < 2;  // texts to the left, numbers to the right
    const std::string cell =
        left ? fmt::format("{:<{}}", row[c], widths[c]) : fmt::format("{:>{}}", row[c], widths[c]);
    line += markdown ? " " + cell + " |" : (c == 0 ? "" : "  ") + cell;
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

std::string comparison_table(std::span<const RunCurves> runs, double target, bool markdown) {
  target = target_of(runs, target);
  std::vector<Row> rows = {{"run", "optimizer", "tokens", "val loss", "best", "seconds", "tokens/s"}};
  if (target > 0) {
    rows[0].push_back(fmt::format("tokens to {}", target));
    rows[0].push_back(fmt::format("seconds to {}", target));
  }
  for (const RunCurves& run : runs) rows.push_back(row_of(run, target));
  std::vector<std::size_t> widths(rows[0].size(), 0);
  for (const Row& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());

  std::string text = line_of(rows[0], widths, markdown);
  Row rule;
  for (std::size_t c = 0; c < widths.size(); ++c) {
    rule.push_back(std::string(widths[c], '-'));
    if (markdown && c >= 2) rule.back().back() = ':';
  }
  text += line_of(rule, widths, markdown);
  for (std::size_t r = 1; r < rows.size(); ++r) text += line_of(rows[r], widths, markdown);
  return text;
}

}  // namespace spectrain
