#include "train/compare_state.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "train/compare_config.h"

namespace spectrain {
namespace {

// Every value of every axis once, the other axes at their first.
std::vector<GridPoint> corners(const PlanVariant& variant) {
  GridPoint first;
  for (const PlanAxis& axis : variant.axes) first.emplace_back(axis.name, axis.values.front());
  std::vector<GridPoint> out{first};
  for (std::size_t a = 0; a < variant.axes.size(); ++a)
    for (const double value : variant.axes[a].values) {
      out.push_back(first);
      out.back()[a].second = value;
    }
  return out;
}

}  // namespace

CompareState::CompareState(ComparePlan plan)
    : plan_(std::move(plan)), base_(base_configuration(plan_)), store_(plan_.root()) {
  check_variants();
}

void CompareState::check_variants() const {
  std::vector<NamedConfig> configs;
  for (const PlanVariant& variant : plan_.variants)
    for (const GridPoint& point : corners(variant))
      configs.push_back(
          {variant.name, variant.place, configuration(plan_, variant, point, plan_.sweep_seeds.front())});
  check_comparable(configs);
}

const PlannedRun& CompareState::planned(std::size_t variant, const GridPoint& point, std::uint64_t seed,
                                        double horizon) {
  std::string key = fmt::format("{} {} {}", variant, seed, horizon);
  for (const auto& [name, value] : point) key += fmt::format(" {}={}", name, value);
  std::unique_ptr<PlannedRun>& run = runs_[key];
  if (run) return *run;
  RunConfig config = configuration(plan_, plan_.variants[variant], point, seed);
  if (horizon != 1) {
    config.train.steps = std::max<std::int64_t>(
        1, static_cast<std::int64_t>(std::llround(horizon * static_cast<double>(config.steps()))));
    config.train.tokens = 0;
  }
  const std::string id = store_.id_of(plan_.variants[variant], point, horizon, config);
  run = std::make_unique<PlannedRun>(PlannedRun{variant, point, seed, horizon, std::move(config), id});
  if (!outcomes_.contains(id))
    if (const auto found = store_.outcome(id, run->config)) outcomes_[id] = *found;
  return *run;
}

const RunOutcome* CompareState::outcome(const PlannedRun& run) const {
  const auto found = outcomes_.find(run.id);
  return found == outcomes_.end() ? nullptr : &found->second;
}

void CompareState::remember(const PlannedRun& run, const RunOutcome& outcome) { outcomes_[run.id] = outcome; }

bool CompareState::allowed(std::size_t variant, const GridPoint& point) const {
  try {
    configuration(plan_, plan_.variants[variant], point, plan_.sweep_seeds.front());
    return true;
  } catch (const RequestError&) {
    return false;
  }
}

std::optional<double> CompareState::sweep_loss(std::size_t variant, const GridPoint& point) {
  double sum = 0;
  bool known = true;
  for (const std::uint64_t seed : plan_.sweep_seeds) {
    const RunOutcome* found = outcome(planned(variant, point, seed));
    known = known && found;
    if (found) sum += found->loss;
  }
  return known ? std::optional<double>(sum / static_cast<double>(plan_.sweep_seeds.size())) : std::nullopt;
}

std::size_t CompareState::expected_runs(std::size_t variant, const Search& search) const {
  const PlanVariant& v = plan_.variants[variant];
  std::size_t product = 1, sum = 1;
  for (const PlanAxis& axis : v.axes) {
    product *= axis.values.size();
    sum += axis.values.size() - 1;
  }
  const std::size_t points =
      std::max((v.full_search ? product : sum) + search.extensions.size(), search.points.size());
  const auto new_seeds = static_cast<std::size_t>(
      std::count_if(plan_.final_seeds.begin(), plan_.final_seeds.end(), [&](std::uint64_t seed) {
        return std::find(plan_.sweep_seeds.begin(), plan_.sweep_seeds.end(), seed) == plan_.sweep_seeds.end();
      }));
  const std::size_t horizons =
      v.name == plan_.baseline ? plan_.horizons.size() * plan_.sweep_seeds.size() : 0;
  return horizons +
         (v.axes.empty() ? plan_.final_seeds.size() : points * plan_.sweep_seeds.size() + new_seeds);
}

CompareState::View CompareState::look() {
  View view;
  const auto ask = [&](const PlannedRun& run) {
    const auto same_as = [&](const PlannedRun* other) { return other == &run; };
    if (std::none_of(view.asked.begin(), view.asked.end(), same_as)) view.asked.push_back(&run);
    const auto same_id = [&](const PlannedRun* other) { return other->id == run.id; };
    if (!outcome(run) && std::none_of(view.missing.begin(), view.missing.end(), same_id))
      view.missing.push_back(&run);
  };
  for (std::size_t v = 0; v < plan_.variants.size(); ++v) {
    const PlanVariant& variant = plan_.variants[v];
    Search found = search(
        variant, plan_.extend, [&](const GridPoint& point) { return sweep_loss(v, point); },
        [&](const GridPoint& point) { return allowed(v, point); });
    if (!variant.axes.empty())
      for (const GridPoint& point : found.points)
        for (const std::uint64_t seed : plan_.sweep_seeds) ask(planned(v, point, seed));
    if (found.missing.empty()) {
      for (const std::uint64_t seed : plan_.final_seeds) ask(planned(v, found.best, seed));
      if (variant.name == plan_.baseline)
        for (const double horizon : plan_.horizons)
          for (const std::uint64_t seed : plan_.sweep_seeds) ask(planned(v, found.best, seed, horizon));
    }
    view.expected += expected_runs(v, found);
    view.searches.push_back(std::move(found));
  }
  return view;
}

std::string CompareState::check_data() {
  const std::string now = data_fingerprint(base_);
  for (const PlannedRun* run : look().asked)
    if (const RunOutcome* found = outcome(*run); found && found->data != now)
      throw RequestError(fmt::format(
          "{} was trained on other data: {}; now they are {}. Give the comparison another name, or bring the "
          "old files back",
          store_.run(run->id), found->data, now));
  return now;
}

}  // namespace spectrain
