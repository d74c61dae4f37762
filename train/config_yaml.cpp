#include "train/config_yaml.h"

#include <yaml-cpp/yaml.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "fmt/format.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

// Deeper than any configuration; stops a file of a million brackets before the stack does.
constexpr int kDeepest = 32;

class Converter {
 public:
  // `line` false: every place is `file` itself.
  Converter(std::string file, bool lines) : file_(std::move(file)), lines_(lines) {}

  ConfigNode convert(const YAML::Node& from, const std::string& outer_place, int depth = 0) const {
    if (depth > kDeepest) throw RequestError(fmt::format("{}: nested too deeply", outer_place));
    ConfigNode node;
    node.place = from.IsNull() ? outer_place : place(from.Mark(), outer_place);
    if (from.IsScalar()) {
      node.kind = ConfigNode::Kind::scalar;
      node.text = from.Scalar();
      node.quoted = from.Tag() == "!";
    } else if (from.IsSequence()) {
      node.kind = ConfigNode::Kind::list;
      for (const YAML::Node& item : from) node.items.push_back(convert(item, node.place, depth + 1));
    } else if (from.IsMap()) {
      node.kind = ConfigNode::Kind::map;
      for (const auto& entry : from) add_member(node, entry.first, entry.second, depth);
    }
    return node;
  }

  std::string place(const YAML::Mark& mark, const std::string& otherwise) const {
    return lines_ && mark.line >= 0 ? fmt::format("{}:{}", file_, mark.line + 1) : otherwise;
  }

 private:
  void add_member(ConfigNode& map, const YAML::Node& key, const YAML::Node& value, int depth) const {
    const std::string at = place(key.Mark(), map.place);
    if (!key.IsScalar()) throw RequestError(fmt::format("{}: a key must be a word", at));
    // The parser of YAML keeps both; one of the two would be a silent loser.
    for (const ConfigNode::Member& m : map.members)
      if (m.key == key.Scalar())
        throw RequestError(fmt::format("{}: key \"{}\" is given twice, first at {}", at, m.key, m.place));
    map.members.push_back({key.Scalar(), at, convert(value, at, depth + 1)});
  }

  std::string file_;
  bool lines_;
};

ConfigNode parse(const std::string& text, const Converter& converter, const std::string& place) {
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text);
    if (documents.empty()) return converter.convert(YAML::Node(), place);
    if (documents.size() > 1)
      throw RequestError(fmt::format("{}: holds {} YAML documents, not one", place, documents.size()));
    return converter.convert(documents.front(), place);
  } catch (const YAML::Exception& e) {
    throw RequestError(fmt::format("{}: not YAML: {}", converter.place(e.mark, place), e.msg));
  }
}

}  // namespace

ConfigNode read_yaml_file(const std::string& path) {
  if (fs::is_directory(path)) throw RequestError(fmt::format("{}: a directory, not a YAML file", path));
  std::ifstream in(path, std::ios::binary);
  if (!in) throw RequestError(fmt::format("{}: no such configuration file, or it may not be read", path));
  std::stringstream text;
  text << in.rdbuf();
  ConfigNode root = parse(text.str(), Converter(path, true), path);
  if (root.kind == ConfigNode::Kind::null) root.kind = ConfigNode::Kind::map;
  if (root.kind != ConfigNode::Kind::map)
    throw RequestError(fmt::format("{}: a configuration is a map of sections, \"train: ...\"", root.place));
  return root;
}

ConfigNode read_yaml_text(const std::string& text, const std::string& place) {
  return parse(text, Converter(place, false), place);
}

bool file_exists(const std::string& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string canonical_path(const std::string& path) {
  std::error_code failed;
  const fs::path canonical = fs::weakly_canonical(path, failed);
  return failed ? path : canonical.string();
}

std::string path_beside(const std::string& file, const std::string& relative) {
  return (fs::path(file).parent_path() / relative).lexically_normal().string();
}

}  // namespace spectrain
