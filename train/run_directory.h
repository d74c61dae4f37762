#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "train/durable_file.h"

namespace spectrain {

enum class ExistingRun : std::uint8_t {
  refuse,    // RequestError
  resume,    // go on in it (and begin when there is none)
  set_aside  // rename it to <name>.old-1, .old-2 ...; nothing is ever deleted
};

// The directory <directory>/<name> of one run:  config.yaml, metrics.jsonl, checkpoints/, .lock, and of a
// timed run speedrun.log. Locked while the object lives, so that two processes never train into the same one;
// a killed process leaves no lock behind.
class RunDirectory {
 public:
  // Creates it (or what `existing` says) and writes `config` to config.yaml. On resume another configuration
  // than the one there replaces it; the old text is kept as config.old-N.yaml. Throws RequestError: a name
  // that is not one, an existing run, a run that is in use; Error when something cannot be written.
  RunDirectory(const std::string& directory, const std::string& name, ExistingRun existing,
               std::string_view config);

  const std::string& path() const { return path_; }
  std::string config_path() const { return path_ + "/config.yaml"; }
  std::string metrics_path() const { return path_ + "/metrics.jsonl"; }
  std::string checkpoints_path() const { return path_ + "/checkpoints"; }
  bool existed() const { return existed_; }  // and was not set aside
  const std::string& set_aside_to() const {
    return old_;
  }  // the new name of an old run; empty: there was none

 private:
  std::string path_, old_;
  Descriptor lock_;
  bool existed_ = false;
};

}  // namespace spectrain
