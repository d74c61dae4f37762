#include "train/command_compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "kernels/error.h"
#include "train/compare_driver.h"
#include "train/compare_plan.h"
#include "train/compare_report.h"
#include "train/compare_runs.h"
#include "train/compare_state.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

std::string counted(std::size_t n, std::string_view one) {
  return fmt::format("{} {}{}", n, one, n == 1 ? "" : "s");
}

std::size_t count_done(const CompareState& state, const CompareState::View& view) {
  return static_cast<std::size_t>(std::count_if(view.asked.begin(), view.asked.end(),
                                                [&](const PlannedRun* r) { return state.outcome(*r); }));
}

void print_start(CompareState& state) {
  const CompareState::View view = state.look();
  const std::size_t done = count_done(state, view);
  fmt::print("{}: {}, about {}, {} done", state.plan().name, counted(state.plan().variants.size(), "variant"),
             counted(view.expected, "run"), done);
  if (done < view.expected) fmt::print("; how long it takes is known after the first");
  fmt::print("\n");
  std::fflush(stdout);
}

std::string point_text(const GridPoint& point) {
  std::string text;
  for (const auto& [name, value] : point)
    text += fmt::format("{}{} {:.6g}", text.empty() ? "" : ", ", name, value);
  return text;
}

void print_runs(CompareState& state) {
  const CompareState::View view = state.look();
  for (std::size_t v = 0; v < state.plan().variants.size(); ++v) {
    const PlanVariant& variant = state.plan().variants[v];
    fmt::print("{}\n", variant.name);
    for (const PlannedRun* run : view.asked) {
      if (run->variant != v) continue;
      const RunOutcome* outcome = state.outcome(*run);
      const std::string result = !outcome            ? "to be trained"
                                 : outcome->diverged ? "diverged"
                                                     : fmt::format("validation loss {:.4f}", outcome->loss);
      fmt::print("  {:<56} {}\n", run->id, result);
    }
    const Search& search = view.searches[v];
    std::vector<std::string> seeds;
    for (const std::uint64_t seed : state.plan().final_seeds) seeds.push_back(std::to_string(seed));
    if (!search.missing.empty())
      fmt::print("  then {}seeds {} of the best point\n",
                 variant.axes.size() > 1 && !variant.full_search ? "the other axes, and " : "",
                 listed(seeds));
    else if (!variant.axes.empty())
      fmt::print("  best: {}{}\n", point_text(search.best),
                 search.at_edge ? ", at the edge of its grid" : "");
  }
  fmt::print("about {}, {} done, into {}; nothing was started\n", counted(view.expected, "run"),
             count_done(state, view), state.plan().root());
}

void report(CompareState& state) {
  const ComparedRuns results = collect_runs(state);
  if (results.runs.empty())
    throw RequestError(fmt::format("{} holds no finished run of this plan yet; there is nothing to report",
                                   state.plan().root()));
  write_report(results, state.plan().root());
  fmt::print("{}{}/report.html\n", summary_table(results), state.plan().root());
}

}  // namespace

int run_compare(const CompareRequest& request) {
  CompareState state(read_compare_plan(request.plan));
  if (request.dry_run) {
    print_runs(state);
    return 0;
  }
  if (!request.report_only) {
    const Descriptor lock = state.store().lock();
    CompareDriver driver(state);
    print_start(state);
    driver.run();
  }
  report(state);
  return 0;
}

}  // namespace spectrain
