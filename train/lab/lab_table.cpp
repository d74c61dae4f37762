#include "train/lab/lab_table.h"

#include <fmt/format.h>

#include <algorithm>

#include "train/compare_fields.h"

namespace spectrain::lab {
namespace {

constexpr std::size_t kMostChecks = 4;  // of a claim in a table; more would hide the claims

// Text that may hold anything, as a part of a row: on one line, and no markup of Markdown's.
std::string in_row(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("|*<`\\").find(c) != std::string_view::npos) out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

template <class Each>
void for_each_claim(const std::vector<ExperimentRecord>& records, const Each& each) {
  for (const ExperimentRecord& r : records)
    for (const ClaimResult& c : r.outcome.claims) each(r, c);
}

// What is short must not be taken for the whole.
std::string circumstances(const std::vector<ExperimentRecord>& records) {
  const auto quick = std::count_if(records.begin(), records.end(), [](const auto& r) { return r.quick; });
  if (quick == 0) return "";
  return quick == static_cast<std::ptrdiff_t>(records.size())
             ? " The quick form of each experiment was run."
             : fmt::format(" Of {} of {} experiments the quick form was run.", quick, records.size());
}

}  // namespace

std::string verdict_counts(const std::vector<ExperimentRecord>& records) {
  std::size_t holds = 0, in_part = 0, not_here = 0, not_run = 0;
  for_each_claim(records, [&](const ExperimentRecord& r, const ClaimResult& c) {
    if (!r.not_run.empty()) {
      ++not_run;
      return;
    }
    const Verdict v = c.verdict();
    ++(v == Verdict::holds ? holds : v == Verdict::holds_in_part ? in_part : not_here);
  });
  std::string text;
  const auto add = [&](std::size_t n, const char* one, const char* many) {
    if (n > 0) text += fmt::format("{}{} {}", text.empty() ? "" : ", ", n, n == 1 ? one : many);
  };
  add(holds, "holds", "hold");
  add(in_part, "holds in part", "hold in part");
  add(not_here, "does not hold here", "do not hold here");
  add(not_run, "was not run", "were not run");
  const std::size_t all = holds + in_part + not_here + not_run;
  if (all == 0) return "No claims.";
  return fmt::format("{} claim{}: {}.{}", all, all == 1 ? "" : "s", text, circumstances(records));
}

std::string measured_text(const Check& check) { return check.measured + (check.holds ? "" : " (fails)"); }

std::vector<std::string> measured_lines(const ExperimentRecord& record, const ClaimResult& claim) {
  if (!record.not_run.empty()) return {record.not_run};
  std::vector<Check> checks = claim.checks;
  std::stable_partition(checks.begin(), checks.end(), [](const Check& c) { return !c.holds; });
  std::vector<std::string> lines;
  for (std::size_t i = 0; i < std::min(checks.size(), kMostChecks); ++i)
    lines.push_back(fmt::format("{}: {}", checks[i].statement, measured_text(checks[i])));
  if (checks.size() <= kMostChecks) return lines;
  // Failing ones come first: when the first of the rest holds, all of the rest do.
  const std::size_t more = checks.size() - kMostChecks;
  const auto fail =
      std::count_if(checks.begin() + kMostChecks, checks.end(), [](const Check& c) { return !c.holds; });
  lines.push_back(fail == 0
                      ? fmt::format("and {} more, which hold{}", more, more == 1 ? "s" : "")
                      : fmt::format("and {} more, of which {} fail{}", more, fail, fail == 1 ? "s" : ""));
  return lines;
}

std::string terminal_table(const std::vector<ExperimentRecord>& records) {
  std::string text;
  for_each_claim(records, [&](const ExperimentRecord& r, const ClaimResult& c) {
    text += fmt::format("{:<4} {}: {}\n", r.id, verdict_words(r, c), c.claim.sentence);
    for (const std::string& line : measured_lines(r, c)) text += fmt::format("       {}\n", line);
  });
  return ascii(text) + "\n" + verdict_counts(records) + "\n";
}

std::string markdown_table(const std::vector<ExperimentRecord>& records) {
  std::string text = "| | claim | measured here | verdict |\n|---|---|---|---|\n";
  for_each_claim(records, [&](const ExperimentRecord& r, const ClaimResult& c) {
    std::string measured;
    for (const std::string& line : measured_lines(r, c))
      measured += fmt::format("{}{}", measured.empty() ? "" : "<br>", in_row(line));
    text += fmt::format("| {} | {} ({}) | {} | {} |\n", r.id, in_row(c.claim.sentence),
                        in_row(c.claim.source), measured, verdict_words(r, c));
  });
  return text + "\n" + verdict_counts(records) + "\n";
}

}  // namespace spectrain::lab
