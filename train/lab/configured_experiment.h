#pragma once

#include <memory>
#include <string>
#include <vector>

#include "train/lab/experiments.h"

namespace spectrain::lab {

// An experiment as a file of configs/lab sets it up.
struct ConfiguredExperiment {
  std::string id;    // "e4": unique in a laboratory
  std::string file;  // that it was read from
  std::unique_ptr<Experiment> experiment;
  std::vector<std::string> changed;  // options that are not as by default: "steps: 40 (default 400)"
};

// Reads a YAML file:
//
//   experiment: mode-race        # its name in `list`
//   id: e1                       # letters, digits and '-'
//   steps: 4000                  # an option of the experiment; those not given stay as they are by default
//   quick: {steps: 400}          # what --quick changes
//
// `base:` works as in the configuration of a run. The quick form is read, and so checked, either way. Throws
// RequestError that begins with file and line.
ConfiguredExperiment read_experiment(const std::string& path, bool quick,
                                     const ExperimentList& list = all_experiments());

// All files *.yaml of a folder in the order of their ids, e2 before e10. Throws RequestError when there is
// none, when two have one id, and as above.
std::vector<ConfiguredExperiment> read_laboratory(const std::string& folder, bool quick,
                                                  const ExperimentList& list = all_experiments());

// Of the laboratory those somebody asks for, in that order and each once: ids, "all", and paths of other
// files (with a '/' or ending in .yaml). Throws RequestError for an id that there is not, with the nearest
// one.
std::vector<ConfiguredExperiment> chosen(const std::vector<std::string>& wanted, const std::string& folder,
                                         bool quick, const ExperimentList& list = all_experiments());

// The order of ids: numbers in them count as numbers.
bool id_before(const std::string& a, const std::string& b);

}  // namespace spectrain::lab
