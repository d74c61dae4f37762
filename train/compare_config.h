#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/compare_plan.h"
#include "train/config.h"

namespace spectrain {

// The configurations of a comparison's runs, and what is the same and what is not between them.

// The base with what the plan sets for every run.
RunConfig base_configuration(const ComparePlan& plan);

// That of a variant at a point of its grid. Model sizes that follow from others are filled in; run.name and
// run.directory are the base's. Throws RequestError where the configuration's checks do, with places in the
// plan where that set a value.
RunConfig configuration(const ComparePlan& plan, const PlanVariant& variant, const GridPoint& point,
                        std::uint64_t seed);

// Every key with its value, as to_yaml() writes them: {"optimizer.0.lr", "0.02"}.
using FlatConfig = std::vector<std::pair<std::string, std::string>>;
FlatConfig flattened(const RunConfig& config);

// What a configuration trains, seed included: its keys without those that change nothing in the result
// (names, directories, threads, checkpoints, event files, the target that is printed). Two runs with the same
// text are the same run.
std::string identity(const RunConfig& config);

// 8 hexadecimal digits of a hash of what differs from defaults, so that they stay when the program learns new
// keys.
std::string identity_hash(const RunConfig& config);

// "optimizer.0.lr: 0.02 (base 0.001)" for each key of `config` that the base has otherwise or not at all.
std::vector<std::string> differences(const RunConfig& base, const RunConfig& config);

// The data a configuration reads: files, bytes, and a hash of sizes and of samples of the contents. The same
// text for the same files under other names.
std::string data_fingerprint(const RunConfig& config);

// Throws RequestError naming key, values and variants when two of these must not be compared: they differ in
// model, data, validation, tokens or context of a batch, steps, precision or device.
struct NamedConfig {
  std::string variant, place;
  RunConfig config;
};
void check_comparable(const std::vector<NamedConfig>& configs);

}  // namespace spectrain
