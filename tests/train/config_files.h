#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace spectrain {

// configs/, with the slash.
std::string configs_directory();

enum class ConfigKind : std::uint8_t {
  run,         // can be trained
  part,        // names no optimizer, nor does its base: only the base of others
  comparison,  // a plan for `spectrain compare`: has `variants`
  experiment,  // of `spectrain lab`: says which
};

// Every *.yaml below configs/ of a kind, as "speedrun/11-u-net.yaml", sorted.
std::vector<std::string> config_files(ConfigKind kind);

// The file that `file` names as its base, likewise below configs/; empty: none.
std::string base_of_config(const std::string& file);

}  // namespace spectrain
