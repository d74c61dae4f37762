#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/lab/experiments.h"

namespace spectrain {

struct LabRequest {
  std::string configs;              // folder of the experiments' configurations; empty: configs/lab
  std::vector<std::string> wanted;  // ids, "all", or paths of files
  bool quick = false;
  std::uint64_t seed = 1;
  std::string data = "data";
  std::string out = "runs/lab";
  std::string device = "auto";  // "cpu", "cuda" or "auto"
  bool report_only = false;     // writes the results of what is there, runs nothing
};

// Lists the experiments with their claims. Returns the exit code; throws as the functions of commands.h.
int list_lab(const LabRequest& request, const lab::ExperimentList& list = lab::all_experiments());

// Runs the experiments asked for and writes the results (train/lab/lab_results.h). Returns 0 only if all of
// them ran, else 1; throws as the functions of commands.h.
int run_lab(const LabRequest& request, const lab::ExperimentList& list = lab::all_experiments());

}  // namespace spectrain
