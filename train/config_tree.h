#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace spectrain {

// A configuration before anybody knows what its keys mean: files, their bases and overrides merged into one
// tree in which every key and value remembers where it was written.
struct ConfigNode {
  enum class Kind { null, scalar, list, map };
  struct Member;

  Kind kind = Kind::null;
  std::string text;     // of a scalar
  bool quoted = false;  // a scalar in quotes is text, whatever it looks like
  std::vector<ConfigNode> items;
  std::vector<Member> members;  // in the order of the file
  std::string place;            // "configs/x.yaml:12" or "--set train.steps=5"

  ConfigNode* find(std::string_view key);
  const ConfigNode* find(std::string_view key) const;
  void erase(std::string_view key);
};

struct ConfigNode::Member {
  std::string key;
  std::string place;  // of the key; the value's may be lines below
  ConfigNode value;
};

// The file at `path` over its `base:`, that over its own, and so on. Throws RequestError for a file that
// cannot be read, is not YAML, gives a key twice, or is its own base.
ConfigNode read_config_tree(const std::string& path);

// Maps merge, anything else in `over` replaces what `base` holds.
void merge(ConfigNode& base, ConfigNode over);

// Merges `value` in at the path `key`, "optimizer.0.lr". Throws RequestError, which begins with value.place,
// when the path is none or names an element that a list does not have.
void apply_value(ConfigNode& root, const std::string& key, ConfigNode value);

// "optimizer.0.lr=0.02": the value, read as YAML, is merged in at that path. Throws RequestError when the
// text has no
// '=' or names an element that a list does not have.
void apply_override(ConfigNode& root, const std::string& assignment);

}  // namespace spectrain
