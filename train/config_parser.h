#pragma once

#include <string>

#include "train/config.h"
#include "train/config_tree.h"
#include "train/option_reader.h"

namespace spectrain {

// Fills `config` from the tree; strict about keys, types, words and ranges. Throws RequestError naming place,
// key, value and what is allowed.
Places parse_config(const ConfigNode& root, RunConfig& config);

// config_check.cpp: what cannot be said key by key: required keys, numbers that must fit each other.
void check_config(const RunConfig& config, const Places& places, const std::string& path, ConfigUse use);

}  // namespace spectrain
