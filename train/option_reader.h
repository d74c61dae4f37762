#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "optim/option.h"
#include "train/config_tree.h"

namespace spectrain {

// Where the keys that were given stand: "optimizer.0.lr" -> "configs/x.yaml:12".
using Places = std::map<std::string, std::string>;

// Throws RequestError: "<place>: <path> must be <wanted>, not ...".
[[noreturn]] void wrong_type(const ConfigNode& node, const std::string& path, std::string_view wanted);

// The value `node` of the key `path` into its field. Throws RequestError naming place, key, value and what is
// allowed when it is of another type, out of range or an unknown word.
void read_option(const ConfigNode& node, const std::string& path, const Field& field, const Range& range);

// Fills options from one map of a configuration, key by key as a listing asks for them; keys that are not
// given keep their fields as they are. The map must outlive it.
class OptionReader final : public OptionVisitor {
 public:
  // The path of the same key in another section, "" where there is none.
  using Elsewhere = std::function<std::string(const std::string& key)>;

  // Throws RequestError when the node is no map. `path`: of the map, "" for the whole file.
  OptionReader(const ConfigNode& map, std::string path, Places& places, Elsewhere elsewhere = {});

  void field(std::string_view name, const Field& field, const Range& range, std::string_view) override;
  void section(std::string_view name, std::string_view,
               const std::function<void(OptionVisitor&)>& inside) override;

  // The value of a key that is read by the caller; null when it is not given.
  const ConfigNode* take(std::string_view name);
  std::string path_of(std::string_view name) const;
  // Throws RequestError for a key of the map that nobody asked for, with the one that was meant.
  void finish() const;

 private:
  const ConfigNode& map_;
  std::string path_;
  Places& places_;
  Elsewhere elsewhere_;
  std::vector<std::string> known_;
};

}  // namespace spectrain
