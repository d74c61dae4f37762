#pragma once

#include <map>
#include <string>

#include "train/config.h"
#include "train/config_tree.h"

namespace spectrain {

// Where the keys that were given stand: "optimizer.0.lr" -> "configs/x.yaml:12".
using Places = std::map<std::string, std::string>;

// Fills `config` from the tree; strict about keys, types, words and ranges. Throws RequestError naming place,
// key, value and what is allowed.
Places parse_config(const ConfigNode& root, RunConfig& config);

// config_check.cpp: what cannot be said key by key: required keys, numbers that must fit each other.
void check_config(const RunConfig& config, const Places& places, const std::string& path, ConfigUse use);

}  // namespace spectrain
