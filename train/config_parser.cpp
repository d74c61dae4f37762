#include "train/config_parser.h"

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/config_keys.h"

namespace spectrain {
namespace {

// The paths of all keys, for "did you mean train.steps?" where somebody looked in the wrong section.
class PathCollector final : public KeyVisitor {
 public:
  void field(std::string_view name, const Field&, const Range&, std::string_view) override {
    paths.push_back(key_path(section_, name));
  }
  void section(std::string_view name, std::string_view,
               const std::function<void(OptionVisitor&)>& inside) override {
    const std::string outer = section_;
    section_ = key_path(section_, name);
    paths.push_back(section_);
    inside(*this);
    section_ = outer;
  }
  void groups(std::string_view name, std::string_view, std::vector<GroupConfig>&) override {
    paths.push_back(key_path(section_, name));
  }
  std::vector<std::string> paths;

 private:
  std::string section_;
};

std::string same_key_elsewhere(const std::string& key) {
  RunConfig any;
  PathCollector all;
  describe(all, any);
  for (const std::string& path : all.paths)
    if (path.ends_with("." + key)) return path;
  return "";
}

// The sections are options like any others; only the list of groups is the run configuration's own.
class Parser final : public KeyVisitor {
 public:
  Parser(const ConfigNode& map, Places& places)
      : places_(places), reader_(map, "", places, same_key_elsewhere) {}

  void field(std::string_view name, const Field& field, const Range& range,
             std::string_view meaning) override {
    reader_.field(name, field, range, meaning);
  }
  void section(std::string_view name, std::string_view meaning,
               const std::function<void(OptionVisitor&)>& inside) override {
    reader_.section(name, meaning, inside);
  }
  void groups(std::string_view name, std::string_view, std::vector<GroupConfig>& groups) override {
    const ConfigNode* node = reader_.take(name);
    if (!node) return;
    const std::string path = reader_.path_of(name);
    if (node->kind != ConfigNode::Kind::list)
      wrong_type(*node, path, "a list of groups, \"- {parameters: hidden, rule: muon, lr: 0.02}\"");
    groups.assign(node->items.size(), {});
    for (std::size_t i = 0; i < groups.size(); ++i)
      read_group(node->items[i], key_path(path, std::to_string(i)), groups[i]);
  }
  void finish() const { reader_.finish(); }

 private:
  void read_group(const ConfigNode& item, const std::string& path, GroupConfig& group) {
    places_[path] = item.place;
    OptionReader reader(item, path, places_, same_key_elsewhere);
    for (const std::string_view required : {"parameters", "rule"})
      if (!item.find(required))
        throw RequestError(fmt::format("{}: {} lacks the key \"{}\"", item.place, path, required));
    describe(reader, group);
    reader.finish();
  }

  Places& places_;
  OptionReader reader_;
};

}  // namespace

Places parse_config(const ConfigNode& root, RunConfig& config) {
  Places places;
  Parser parser(root, places);
  describe(parser, config);
  parser.finish();
  return places;
}

}  // namespace spectrain
