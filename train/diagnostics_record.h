#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace spectrain {

// What diagnostics.h measures, as the field "diagnostics" of a line of metrics.jsonl holds it.

// Of one step, over the parameters that one rule updates; norms are Frobenius.
struct GroupMeasurement {
  std::string parameters, rule;  // "hidden", "muon"
  double weight_norm = 0;        // |W| after the step
  double gradient_norm = 0;      // |G| before clipping
  double update_norm = 0;        // |U|, U = W after the step - W before: decay and constraints are in it
  double update_to_weight = 0;   // |U| / |W|; 0 where U is zero
  double cosine = 0;  // -<U, G> / (|U| |G|): 1 for steepest descent; 0 where either is zero or not finite
  bool operator==(const GroupMeasurement&) const = default;
};

// Of a matrix [rows, cols] after a step. What could not be computed (elements that are not finite) is NaN.
struct SpectrumMeasurement {
  std::string matrix;  // "h.0.mlp.up.weight", "h.0.attention.qkv.weight[1]": the second of its splits
  std::string of;      // "weight", "momentum" or "update"
  std::int64_t rows = 0, cols = 0;
  double norm = 0, stable_rank = 0, effective_rank = 0;  // spectrum.h
  std::vector<double> singular_values;                   // those of chosen_places(): descending
};

// Validation losses by how frequent the token to be predicted is in the training data (token_deciles.h).
struct DecileMeasurement {
  std::int64_t counted = 0;           // tokens of the training data that the classes are made from
  std::vector<double> loss;           // mean per token of the class; NaN: the validation set has none
  std::vector<std::int64_t> targets;  // validation tokens of the class
  std::vector<std::int64_t> types;    // different tokens of the class
};

struct DiagnosticsRecord {
  std::vector<GroupMeasurement> groups;
  std::vector<SpectrumMeasurement> spectra;
  std::optional<DecileMeasurement> deciles;
};

// {"groups": [{...}], "spectra": [{...}], "deciles": {"counted": .., "loss": [..], ..}}, without what is not
// there. Numbers that JSON does not have are the texts of metrics.h.
nlohmann::ordered_json to_json(const DiagnosticsRecord& record);
// Unknown fields are passed over. RequestError for values of another kind.
DiagnosticsRecord diagnostics_of(const nlohmann::ordered_json& object);

}  // namespace spectrain
