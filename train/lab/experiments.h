#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "train/lab/experiment.h"

// The list of experiments. A line X(mode_race) stands for a function make_mode_race() in a file of this
// folder.
// clang-format off
#define SPECTRAIN_EXPERIMENTS(X) \
  X(mode_race) \
  X(mode_race_random) \
  X(mode_race_depth) \
  X(routing) \
  X(routing_ablations) \
  X(spurious_pixel) \
  X(one_step_threshold) \
  X(long_run_stability) \
  X(kronecker_curvature) \
  X(step_sizes) \
  X(memory_noiseless) \
  X(memory_imbalance) \
  X(memory_scaling) \
  X(memory_alignment) \
  X(long_tail) \
  X(token_frequency) \
  X(airbench) \
  X(small_convnet) \
  X(cost_accounting) \
  X(momentum_variants) \
  X(decay_bound) \
  X(critical_batch) \
  X(critical_batch_gpt)
// clang-format on

namespace spectrain::lab {

using MakeExperiment = std::unique_ptr<Experiment> (*)();
using ExperimentList = std::vector<MakeExperiment>;

#define SPECTRAIN_DECLARE_EXPERIMENT(name) std::unique_ptr<Experiment> make_##name();
SPECTRAIN_EXPERIMENTS(SPECTRAIN_DECLARE_EXPERIMENT)
#undef SPECTRAIN_DECLARE_EXPERIMENT

const ExperimentList& all_experiments();

// With the options as they are by default. Throws RequestError, with the nearest name, where the list has no
// experiment of that name.
std::unique_ptr<Experiment> make_experiment(std::string_view name, const ExperimentList& list);
std::vector<std::string> experiment_names(const ExperimentList& list);

}  // namespace spectrain::lab
