#include "train/config_tree.h"

#include <algorithm>
#include <charconv>

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/config_yaml.h"

namespace spectrain {

ConfigNode* ConfigNode::find(std::string_view key) {
  for (Member& m : members)
    if (m.key == key) return &m.value;
  return nullptr;
}

const ConfigNode* ConfigNode::find(std::string_view key) const {
  return const_cast<ConfigNode*>(this)->find(key);
}

void ConfigNode::erase(std::string_view key) {
  std::erase_if(members, [&](const Member& m) { return m.key == key; });
}

namespace {

bool is_override(const std::string& place) { return place.starts_with("--set "); }

// The length of a run is given in steps or in tokens. A nearer file (or --set) that gives one takes back the
// other, else `--set train.steps=20` could not shorten a run whose file counts tokens.
void settle_length(ConfigNode& base, const ConfigNode& over) {
  ConfigNode* below = base.find("train");
  const ConfigNode* above = over.find("train");
  if (!below || !above) return;
  const auto given = [&](std::string_view key) {
    const ConfigNode* node = above->find(key);
    return node && node->text != "0";  // 0 says that the other one counts
  };
  const bool steps = given("steps"), tokens = given("tokens");
  const auto take_back = [&](std::string_view key) {
    const ConfigNode* old = below->find(key);
    const bool same_level = old && !above->members.empty() && is_override(old->place) &&
                            is_override(above->members.front().place);
    if (!same_level) below->erase(key);
  };
  if (steps && !tokens) take_back("tokens");
  if (tokens && !steps) take_back("steps");
}

ConfigNode read_with_bases(const std::string& path, std::vector<std::string> chain) {
  const std::string identity = canonical_path(path);
  if (std::find(chain.begin(), chain.end(), identity) != chain.end())
    throw RequestError(
        fmt::format("{}: the chain of bases comes back to this file; take one \"base:\" away", path));
  chain.push_back(identity);

  ConfigNode node = read_yaml_file(path);
  const ConfigNode* base = node.find("base");
  if (!base) return node;
  if (base->kind != ConfigNode::Kind::scalar || base->text.empty())
    throw RequestError(fmt::format("{}: base must be the path of one YAML file", base->place));
  const std::string base_path = path_beside(path, base->text);
  if (!file_exists(base_path))
    throw RequestError(
        fmt::format("{}: base \"{}\" names no file ({} is looked for; the path counts from the file "
                    "that names it)",
                    base->place, base->text, base_path));
  ConfigNode merged = read_with_bases(base_path, std::move(chain));
  node.erase("base");
  settle_length(merged, node);
  merge(merged, std::move(node));
  return merged;
}

// The path of an override, "a.b.0.c", as a tree that holds only `value`.
ConfigNode wrap(const std::vector<std::string>& path, std::size_t first, ConfigNode value) {
  for (std::size_t i = path.size(); i > first; --i) {
    ConfigNode outer;
    outer.kind = ConfigNode::Kind::map;
    outer.place = value.place;
    outer.members.push_back({path[i - 1], value.place, std::move(value)});
    value = std::move(outer);
  }
  return value;
}

std::vector<std::string> split_path(std::string_view text) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t dot = text.find('.');
    parts.emplace_back(text.substr(0, dot));
    if (dot == std::string_view::npos) return parts;
    text.remove_prefix(dot + 1);
  }
}

bool parse_index(const std::string& text, std::size_t& index) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), index);
  return error == std::errc() && end == text.data() + text.size();
}

std::string join(const std::vector<std::string>& parts, std::size_t count) {
  std::string out;
  for (std::size_t i = 0; i < count; ++i) out += (i ? "." : "") + parts[i];
  return out;
}

ConfigNode& list_element(ConfigNode& list, const std::vector<std::string>& path, std::size_t depth,
                         const std::string& place) {
  std::size_t index = 0;
  if (!parse_index(path[depth], index))
    throw RequestError(fmt::format("{}: {} is a list; name an element by its number, 0 to {}", place,
                                   join(path, depth), list.items.size() - 1));
  if (index >= list.items.size())
    throw RequestError(fmt::format("{}: {} has {} element{} (numbers count from 0), so there is no number {}",
                                   place, join(path, depth), list.items.size(),
                                   list.items.size() == 1 ? "" : "s", index));
  return list.items[index];
}

}  // namespace

ConfigNode read_config_tree(const std::string& path) {
  ConfigNode root = read_with_bases(path, {});
  root.place = path;
  return root;
}

void merge(ConfigNode& base, ConfigNode over) {
  if (base.kind != ConfigNode::Kind::map || over.kind != ConfigNode::Kind::map) {
    base = std::move(over);
    return;
  }
  base.place = over.place;
  for (ConfigNode::Member& m : over.members) {
    const auto same = std::find_if(base.members.begin(), base.members.end(),
                                   [&](const ConfigNode::Member& b) { return b.key == m.key; });
    if (same == base.members.end()) {
      base.members.push_back(std::move(m));
    } else {
      same->place = m.place;
      merge(same->value, std::move(m.value));
    }
  }
}

void apply_value(ConfigNode& root, const std::string& key, ConfigNode value) {
  const std::string place = value.place;
  const std::vector<std::string> path = split_path(key);
  if (std::find(path.begin(), path.end(), "") != path.end())
    throw RequestError(fmt::format("{}: the path has an empty part between its dots", place));
  if (path.front() == "base")
    throw RequestError(fmt::format("{}: base belongs into a file; write one that names it", place));

  // As deep as the tree goes already; the rest of the path becomes new maps, whose keys the parser checks.
  ConfigNode* at = &root;
  std::size_t depth = 0;
  while (depth < path.size()) {
    if (at->kind == ConfigNode::Kind::list) {
      at = &list_element(*at, path, depth, place);
    } else if (ConfigNode* child = at->kind == ConfigNode::Kind::map ? at->find(path[depth]) : nullptr) {
      at = child;
    } else {
      break;
    }
    ++depth;
  }
  std::size_t index = 0;
  if (depth < path.size() && depth > 0 && parse_index(path[depth], index))
    throw RequestError(fmt::format("{}: the configuration gives no list {} to take number {} of", place,
                                   join(path, depth), index));
  const std::size_t next = depth + 1;
  if (next < path.size() && parse_index(path[next], index))
    throw RequestError(fmt::format("{}: the configuration gives no list {} to take number {} of", place,
                                   join(path, next), index));
  if (path.front() == "train") settle_length(root, wrap(path, 0, value));
  merge(*at, wrap(path, depth, std::move(value)));
}

void apply_override(ConfigNode& root, const std::string& assignment) {
  const std::string place = "--set " + assignment;
  const std::size_t equals = assignment.find('=');
  if (equals == std::string::npos || equals == 0)
    throw RequestError(fmt::format("{}: an override reads key.path=value, as in train.steps=100", place));
  apply_value(root, assignment.substr(0, equals), read_yaml_text(assignment.substr(equals + 1), place));
}

}  // namespace spectrain
