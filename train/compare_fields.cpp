#include "train/compare_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "train/progress.h"

namespace spectrain {
namespace {

using Verdict = Comparison::Verdict;
using Kind = SpeedUp::Kind;

std::string words_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::lower:
      return "lower";
    case Verdict::higher:
      return "higher";
    case Verdict::open:
      return "within noise";
    case Verdict::unknown:
      break;
  }
  return "not tested";
}

std::pair<std::string, std::string> words_of(const SpeedUp& s) {  // kind, and what stands before the factor
  switch (s.kind) {
    case Kind::baseline:
      return {"baseline", ""};
    case Kind::fit:
      return {"fit", ""};
    case Kind::at_least:
      return {"at least", "≥ "};
    case Kind::at_most:
      return {"at most", "≤ "};
    case Kind::beyond:
      return {"beyond", ""};
    case Kind::none:
      break;
  }
  return {"", ""};
}

// Fills a row; what is not known stays empty and is shown as "-".
class RowWriter {
 public:
  void add(std::string key, std::string value) {
    std::string shown = value.empty() ? "-" : value;
    row.push_back({std::move(key), std::move(value), std::move(shown)});
  }
  void add(std::string key, std::string value, std::string shown) {
    row.push_back({std::move(key), std::move(value), std::move(shown)});
  }
  void none(std::string key) { add(std::move(key), ""); }
  SummaryRow row;
};

void add_difference(const ComparedRuns& results, const ComparisonStatistics& all, const VariantStatistics& v,
                    RowWriter& out) {
  const bool is_baseline = results.variants[v.variant].name == results.baseline;
  const bool track3 = results.rule == SignificanceRule::track3;
  if (!v.against_baseline) {
    out.none("difference");
    out.none("p");
    out.none("margin");
    out.add("verdict", is_baseline ? "baseline" : "not tested");
    return;
  }
  const Comparison& c = all.comparisons[*v.against_baseline];
  out.add("difference", fmt::format("{:+.4f}", c.difference));
  out.add("p", c.p && !track3 ? p_text(*c.p) : "");
  out.add("margin", track3 && all.sigma ? fmt::format("{:.4f}", *c.margin) : "");
  out.add("verdict", words_of(c.verdict));
}

void add_target(const VariantStatistics& v, RowWriter& out) {
  const ToTarget& t = v.to_target;
  out.add("reached", fmt::format("{}", t.reached), fmt::format("{} of {}", t.reached, t.of));
  if (t.reached == 0) {
    for (const char* key : {"steps_to_target", "tokens_to_target", "seconds_to_target", "flops_to_target"})
      out.add(key, "", "not reached");
    return;
  }
  out.add("steps_to_target", fmt::format("{:.0f}", t.steps));
  out.add("tokens_to_target", fmt::format("{:.0f}", t.tokens), human_count(std::round(t.tokens)));
  out.add("seconds_to_target", fmt::format("{:.1f}", t.seconds));
  out.add("flops_to_target", fmt::format("{:.4e}", t.flops), flops_text(t.flops));
}

void add_speed_up(const SpeedUp& s, RowWriter& out) {
  const auto [kind, before] = words_of(s);
  if (s.kind == Kind::none)
    out.none("speed_up");
  else if (s.kind == Kind::beyond)
    out.add("speed_up", "", "beyond its reach");
  else
    out.add("speed_up", fmt::format("{:.2f}", s.factor), fmt::format("{}{:.2f}×", before, s.factor));
  out.add("speed_up_kind", kind);
}

SummaryRow row_of(const ComparedRuns& results, const ComparisonStatistics& all, std::size_t rank) {
  const VariantStatistics& v = all.ranking[rank];
  const ComparedVariant& variant = results.variants[v.variant];
  RowWriter out;
  out.add("rank", v.best ? fmt::format("{}", rank + 1) : "");
  out.add("variant", variant.name);
  out.add("best_settings", v.best ? point_text(v.points[*v.best].point) : "");
  out.add(
      "n", fmt::format("{}", v.loss.n),
      v.diverged > 0 ? fmt::format("{} (+ {} diverged)", v.loss.n, v.diverged) : fmt::format("{}", v.loss.n));
  out.add("diverged", fmt::format("{}", v.diverged));
  const auto se = v.loss.standard_error();
  out.add("final_loss", v.best ? loss_text(v.loss.mean) : "");
  out.add("standard_error", se ? fmt::format("{:.4f}", *se) : "");
  add_difference(results, all, v, out);
  add_target(v, out);
  add_speed_up(v.speed_up, out);
  if (v.best) {
    out.add("state_bytes_per_parameter", fmt::format("{:.2f}", v.state_bytes_per_parameter));
    out.add("optimizer_flops_share", fmt::format("{:.5f}", v.optimizer_flops_share),
            fmt::format("{:.2f} %", 100 * v.optimizer_flops_share));
    out.add("seconds_per_step", fmt::format("{:.4g}", v.seconds_per_step));
    out.add("seconds", fmt::format("{:.1f}", v.seconds));
  } else {
    for (const char* key :
         {"state_bytes_per_parameter", "optimizer_flops_share", "seconds_per_step", "seconds"})
      out.none(key);
  }
  out.add("at_edge", variant.at_edge ? "yes" : "no");
  out.add("unfinished", fmt::format("{}", variant.unfinished));
  out.add("failed", fmt::format("{}", variant.failed));
  return std::move(out.row);
}

// "(p = 0.012 by Welch's test, corrected by Holm)", or what else is known about a difference.
std::string certainty(const ComparedRuns& results, const Comparison& c) {
  if (results.rule == SignificanceRule::track3) {
    if (c.verdict == Verdict::unknown) return "untested, for the noise between seeds is not known";
    return c.verdict == Verdict::open ? "not enough for the track-3 rule"
                                      : "which the track-3 rule accepts as real";
  }
  if (!c.p) return "untested, for that needs two seeds of both";
  return fmt::format("{}p = {}", c.verdict == Verdict::open ? "not significant, " : "", p_text(*c.p));
}

}  // namespace

std::vector<SummaryRow> summary_rows(const ComparedRuns& results, const ComparisonStatistics& all) {
  std::vector<SummaryRow> rows;
  for (std::size_t i = 0; i < all.ranking.size(); ++i) rows.push_back(row_of(results, all, i));
  return rows;
}

const SummaryField& field(const SummaryRow& row, const std::string& key) {
  for (const SummaryField& f : row)
    if (f.key == key) return f;
  throw std::logic_error("a summary has no field " + key);
}

std::string point_text(const GridPoint& point) {
  std::string text;
  for (const auto& [name, value] : point)
    text += fmt::format("{}{} {:.4g}", text.empty() ? "" : ", ", name, value);
  return text.empty() ? "as configured" : text;
}

std::string loss_text(double loss) { return std::isfinite(loss) ? fmt::format("{:.4f}", loss) : "-"; }

std::string p_text(double p) {
  return p != 0 && p < 1e-3 ? fmt::format("{:.1e}", p) : fmt::format("{:.4f}", p);
}

std::string flops_text(double flops) {
  constexpr const char* kPrefixes[] = {"", "k", "M", "G", "T", "P", "E", "Z", "Y"};
  std::size_t i = 0;
  // Half a unit of the last digit shown: 999.6 is 1.00 of the next.
  for (; flops >= 999.5 && i + 1 < std::size(kPrefixes); ++i) flops /= 1000;
  const int decimals = flops >= 99.95 ? 0 : flops >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}FLOP", flops, decimals, kPrefixes[i]);
}

std::string estimate_text(const Estimate& loss) {
  const auto se = loss.standard_error();
  return se ? fmt::format("{} ± {:.4f}", loss_text(loss.mean), *se) : loss_text(loss.mean);
}

std::string headline(const ComparedRuns& results, const ComparisonStatistics& all) {
  const VariantStatistics& first = all.ranking.front();
  const auto name = [&](const VariantStatistics& v) { return results.variants[v.variant].name; };
  if (!first.best) return "No variant has a final validation loss.";
  std::string text =
      fmt::format("{} has the lowest final validation loss: {} ({}n = {}).", name(first),
                  estimate_text(first.loss), first.loss.n > 1 ? "standard error, " : "", first.loss.n);
  if (all.ranking.size() < 2 || !all.ranking[1].best) return text;
  const VariantStatistics& second = all.ranking[1];
  if (all.baseline == 0u) {
    text += fmt::format(" It is the baseline: no variant was better. The next is {}, {:.4f} above",
                        name(second), second.loss.mean - first.loss.mean);
    return text + fmt::format(" ({}).", certainty(results, all.comparisons[*first.against_next]));
  }
  if (first.against_baseline) {
    const Comparison& c = all.comparisons[*first.against_baseline];
    text += fmt::format(" That is {:.4f} below the baseline {} ({}).", -c.difference, results.baseline,
                        certainty(results, c));
  }
  if (all.baseline != 1u) {
    const Comparison& c = all.comparisons[*first.against_next];
    text += fmt::format(" The next, {}, is {:.4f} behind ({}).", name(second), std::abs(c.difference),
                        certainty(results, c));
  }
  return text;
}

std::string ascii(std::string text) {
  constexpr std::pair<const char*, const char*> kSigns[] = {
      {"±", "+-"}, {"≥", ">="}, {"≤", "<="}, {"×", "x"}};
  for (const auto& [sign, plain] : kSigns)
    for (std::size_t at; (at = text.find(sign)) != std::string::npos;)
      text.replace(at, std::string_view(sign).size(), plain);
  return text;
}

}  // namespace spectrain
