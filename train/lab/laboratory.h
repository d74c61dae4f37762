#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "train/lab/configured_experiment.h"
#include "train/lab/record.h"

namespace spectrain::lab {

struct LaboratoryRun {
  bool quick = false;
  std::uint64_t seed = 1;
  std::string data;     // folder with data sets; may not exist
  std::string out;      // directory of the results (lab_results.h)
  std::string version;  // of the program
};

// Runs one experiment. What it throws becomes the record's `not_run`: a RequestError's own sentence, and of
// any other exception "it failed: ...". An outcome that leaves out a claim, or judges one by no check, is
// such a failure.
ExperimentRecord run_experiment(ConfiguredExperiment& experiment, const LaboratoryRun& run, Backend& backend);

// Runs experiments one after the other, keeping each record as soon as it is there, and prints a few lines
// about each. After an interrupt (train/interrupt.h) no other one is started. Returns the records in the
// order of the runs.
std::vector<ExperimentRecord> run_experiments(std::vector<ConfiguredExperiment>& experiments,
                                              const LaboratoryRun& run, Backend& backend);

}  // namespace spectrain::lab
