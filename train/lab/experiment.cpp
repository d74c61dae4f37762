#include "train/lab/experiment.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/error.h"
#include "train/lab/experiments.h"
#include "train/suggestion.h"

namespace spectrain::lab {

std::string_view words_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::holds:
      return "holds";
    case Verdict::holds_in_part:
      return "holds in part";
    case Verdict::does_not_hold:
      break;
  }
  return "does not hold here";
}

Verdict ClaimResult::verdict() const {
  // "All of none hold" would be a verdict without a number behind it.
  if (checks.empty()) throw std::logic_error(fmt::format("claim {} is judged by no check", claim.id));
  const auto holding = std::count_if(checks.begin(), checks.end(), [](const Check& c) { return c.holds; });
  if (holding == 0) return Verdict::does_not_hold;
  return holding == static_cast<std::ptrdiff_t>(checks.size()) ? Verdict::holds : Verdict::holds_in_part;
}

const ExperimentList& all_experiments() {
#define SPECTRAIN_MAKE_EXPERIMENT(name) &make_##name,
  static const ExperimentList list = {SPECTRAIN_EXPERIMENTS(SPECTRAIN_MAKE_EXPERIMENT)};
#undef SPECTRAIN_MAKE_EXPERIMENT
  return list;
}

std::unique_ptr<Experiment> make_experiment(std::string_view name, const ExperimentList& list) {
  for (const MakeExperiment make : list)
    if (std::unique_ptr<Experiment> experiment = make(); experiment->name() == name) return experiment;
  const std::vector<std::string> names = experiment_names(list);
  throw RequestError(fmt::format("no experiment \"{}\"{} (experiments: {})", name, did_you_mean(name, names),
                                 names.empty() ? "none" : listed(names)));
}

std::vector<std::string> experiment_names(const ExperimentList& list) {
  std::vector<std::string> names;
  for (const MakeExperiment make : list) names.emplace_back(make()->name());
  std::sort(names.begin(), names.end());
  return names;
}

std::unique_ptr<Experiment> make_experiment(std::string_view name) {
  return make_experiment(name, all_experiments());
}

std::vector<std::string> experiment_names() { return experiment_names(all_experiments()); }

}  // namespace spectrain::lab
