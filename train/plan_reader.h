#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "train/config_tree.h"

namespace spectrain {

// A map of a YAML file whose keys are asked for one by one; what nobody asked for is an error. All errors are
// RequestErrors that begin with the place, as those of a configuration.
class PlanReader {
 public:
  // `path` of the map in its file: "" for the file itself, "variants.0". RequestError when it is not a map.
  PlanReader(const ConfigNode& map, std::string path);

  // Null when the key is not there.
  const ConfigNode* take(std::string_view key);
  const ConfigNode& require(std::string_view key, std::string_view example);
  std::string key_path(std::string_view key) const;
  const std::string& place() const { return map_.place; }

  std::string text(std::string_view key, const std::string& otherwise);
  double number(std::string_view key, double otherwise);  // >= 0
  std::int64_t count(std::string_view key, std::int64_t low, std::int64_t high, std::int64_t otherwise);
  bool truth(std::string_view key, bool otherwise);
  std::size_t word(std::string_view key, const std::vector<std::string>& words, std::size_t otherwise);

  void finish() const;  // throws for a key that was not taken

 private:
  const ConfigNode& map_;
  std::string path_;
  std::vector<std::string> known_;
};

// A finite number, a whole number and a text of a scalar; `path` names it in the error.
double number_of(const ConfigNode& node, const std::string& path);
std::int64_t count_of(const ConfigNode& node, const std::string& path, std::int64_t low, std::int64_t high);
std::string text_of(const ConfigNode& node, const std::string& path);
// A list, or a scalar as a list of one.
std::vector<const ConfigNode*> elements_of(const ConfigNode& node, const std::string& path);

}  // namespace spectrain
