#pragma once

#include <string>
#include <vector>

#include "model/program.h"
#include "train/config.h"

namespace spectrain {

// A trained model on disk: a complete checkpoint and the configuration of the run it belongs to.
struct SavedRun {
  RunConfig config;
  std::string checkpoint;  // directory
};

// `path`: a checkpoint directory inside a run, or a run directory (its newest complete checkpoint). Throws
// RequestError when neither is there.
SavedRun find_saved_run(const std::string& path, const std::vector<std::string>& overrides);
// The newest complete checkpoint of the run that a configuration file describes.
SavedRun find_saved_run_of_config(const std::string& config, const std::vector<std::string>& overrides);

// Master values from the checkpoint, and the matrices prepared from them.
void load_parameters(const SavedRun& run, Parameters& parameters);

}  // namespace spectrain
