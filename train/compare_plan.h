#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/compare_results.h"
#include "train/config_tree.h"

namespace spectrain {

// What a comparison is asked to do, as its YAML file says it (configs/README.md, "Comparisons").

// A key of the configuration and its value: "optimizer.0.lr", or "optimizer" with the whole list.
struct Setting {
  std::string key;
  ConfigNode value;  // remembers where it was written
};

// One dimension of a variant's grid. At a value x each key has factor * x.
struct PlanAxis {
  std::string name;  // "lr"
  std::vector<std::pair<std::string, double>> keys;
  std::vector<double> values;  // ascending
  double step_up = 0;          // what a value beyond the last is multiplied with; 0: none can be
  double step_down = 0;        // what a value below the first is divided by; 0: none can be
  std::string place;
};

// The values beyond an end of an axis: the n-th from there, n = 1, 2, ... Rounded to six digits as all values
// of axes are, so that equal values are equal however they came about.
double beyond(const PlanAxis& axis, bool upward, int n);
double six_digits(double value);

struct PlanVariant {
  std::string name;
  std::vector<Setting> settings;
  std::vector<PlanAxis> axes;
  bool full_search = false;  // all points of the grid, instead of one axis after the other
  std::string place;
};

struct ComparePlan {
  std::string path;
  std::string base;       // path of the configuration
  std::string name;       // and the stem of the plan's file without one
  std::string directory;  // everything goes to directory/name
  std::vector<Setting> settings;
  std::string baseline;
  double target = 0;
  std::vector<std::uint64_t> sweep_seeds{1}, final_seeds{1};
  // The baseline's best point is also trained with these multiples of the steps, for its scaling law.
  std::vector<double> horizons;
  int extend = 2;
  SignificanceRule rule = SignificanceRule::welch;
  double sigma = 0, threshold = 0.004;
  int parallel = 1;  // runs at a time; 0: one per GPU, and one without a GPU
  bool save = false, tensorboard = false;
  std::vector<PlanVariant> variants;

  std::string root() const { return directory + "/" + name; }
};

// Reads and checks a plan; its configurations are not looked at. Throws RequestError: 'plan.yaml:12: unknown
// key "variants.0.sets"; did you mean "set"? (keys here: ...)'.
ComparePlan read_compare_plan(const std::string& path);

}  // namespace spectrain
