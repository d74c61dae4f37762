#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "train/config.h"

namespace spectrain {

// Every configuration key is listed once, in config_keys.cpp, with its name, the field it fills, its range
// and its meaning. The parser, the YAML writer and the key reference are visitors of that one listing.

// Numbers a key may hold. str(): "in (0, 1]", ">= 1", "> 0".
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false, high_open = false;
  bool contains(double x) const {
    return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high);
  }
  std::string str() const;  // "" when everything is allowed
};

// A key with a fixed set of words.
struct Choice {
  std::vector<std::string> words;
  std::function<std::size_t()> get;  // index into words
  std::function<void(std::size_t)> set;
};

// A key with a list out of a fixed set of words (a single word means a list of one).
struct Choices {
  std::vector<std::string> words;
  std::function<std::vector<std::size_t>()> get;
  std::function<void(const std::vector<std::size_t>&)> set;
};

// A key with a list of exactly so many numbers: betas: [0.9, 0.95].
struct Tuple {
  std::vector<double*> fields;
};

using Field = std::variant<bool*, int*, std::int64_t*, std::uint64_t*, double*, std::string*,
                           std::vector<std::string>*, Choice, Choices, Tuple>;

class KeyVisitor {
 public:
  virtual ~KeyVisitor() = default;
  virtual void field(std::string_view name, const Field& field, const Range& range,
                     std::string_view meaning) = 0;
  virtual void section(std::string_view name, std::string_view meaning,
                       const std::function<void(KeyVisitor&)>& inside) = 0;
  virtual void groups(std::string_view name, std::string_view meaning, std::vector<GroupConfig>& groups) = 0;
};

void describe(KeyVisitor& v, RunConfig& config);
void describe(KeyVisitor& v, GroupConfig& group);  // rule comes before the keys that depend on it

// What a group of each rule looks like before any key is read: for the reference of keys.
std::vector<GroupConfig> group_examples();

// The path of a key inside a section: "" and "train" give "train", "train" and "steps" give "train.steps".
std::string key_path(std::string_view section, std::string_view name);

}  // namespace spectrain
