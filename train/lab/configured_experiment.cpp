#include "train/lab/configured_experiment.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <utility>

#include "kernels/error.h"
#include "train/config_keys.h"
#include "train/config_tree.h"
#include "train/option_reader.h"
#include "train/option_text.h"
#include "train/suggestion.h"

namespace spectrain::lab {
namespace {

namespace fs = std::filesystem;
using Kind = ConfigNode::Kind;

// Every option by its path with what it holds, "noise.sigma" and "0.5".
class OptionTexts final : public OptionVisitor {
 public:
  void field(std::string_view name, const Field& field, const Range&, std::string_view) override {
    texts.emplace_back(key_path(section_, name), text_of(field));
  }
  void section(std::string_view name, std::string_view,
               const std::function<void(OptionVisitor&)>& inside) override {
    const std::string outer = std::exchange(section_, key_path(section_, name));
    inside(*this);
    section_ = outer;
  }
  std::vector<std::pair<std::string, std::string>> texts;

 private:
  std::string section_;
};

// Both list the same options, unless a choice among them decides which others there are.
std::vector<std::string> changes(Experiment& from, Experiment& to) {
  OptionTexts before, after;
  from.describe(before);
  to.describe(after);
  std::vector<std::string> out;
  for (const auto& [key, text] : after.texts) {
    const auto old = std::find_if(before.texts.begin(), before.texts.end(),
                                  [&k = key](const auto& o) { return o.first == k; });
    if (old == before.texts.end())
      out.push_back(fmt::format("{}: {}", key, text));
    else if (old->second != text)
      out.push_back(fmt::format("{}: {} (default {})", key, text, old->second));
  }
  return out;
}

std::string word_of(const ConfigNode& root, const std::string& key, const std::string& example) {
  const ConfigNode* node = root.find(key);
  if (node == nullptr)
    throw RequestError(
        fmt::format("{}: {} is missing; give one, as in \"{}: {}\"", root.place, key, key, example));
  if (node->kind != Kind::scalar || node->text.empty()) wrong_type(*node, key, "a word, as in " + example);
  return node->text;
}

std::string id_of(const ConfigNode& root) {
  std::string id = word_of(root, "id", "e1");
  const auto allowed = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-'; };
  // It becomes the name of a file and of a place in a page; "all" stands for every experiment.
  if (!std::all_of(id.begin(), id.end(), allowed) || id.front() == '-' || id == "all")
    throw RequestError(
        fmt::format("{}: id is \"{}\"; it must be made of letters, digits and '-', begin with no '-', "
                    "and not be \"all\"",
                    root.find("id")->place, id));
  return id;
}

std::unique_ptr<Experiment> configured(const ConfigNode& root, const ExperimentList& list) {
  const std::string name = word_of(root, "experiment", "mode-race");
  std::unique_ptr<Experiment> experiment;
  try {
    experiment = make_experiment(name, list);
  } catch (const RequestError& unknown) {
    throw RequestError(fmt::format("{}: {}", root.find("experiment")->place, unknown.what()));
  }
  Places places;
  OptionReader reader(root, "", places);
  for (const char* key : {"experiment", "id", "quick"}) reader.take(key);
  experiment->describe(reader);
  reader.finish();
  return experiment;
}

// The tree with what it says under `quick` in the place of what stands above it.
ConfigNode quick_form(ConfigNode root) {
  const ConfigNode* found = root.find("quick");
  if (found == nullptr) return root;
  ConfigNode over = *found;
  if (over.kind != Kind::map) wrong_type(over, "quick", "a map of options, as in \"quick: {steps: 40}\"");
  for (const char* key : {"experiment", "id", "quick"})
    for (const ConfigNode::Member& m : over.members)
      if (m.key == key)
        throw RequestError(
            fmt::format("{}: quick changes options of the experiment; it cannot give \"{}\"", m.place, key));
  const std::string place = root.place;
  merge(root, std::move(over));
  root.place = place;
  return root;
}

bool is_path(const std::string& text) {
  return text.find('/') != std::string::npos || text.ends_with(".yaml");
}

// The run of digits or of other characters that begins at `at`.
std::string_view run_at(std::string_view text, std::size_t at) {
  const auto digit = [&](std::size_t i) { return std::isdigit(static_cast<unsigned char>(text[i])) != 0; };
  std::size_t end = at;
  while (end < text.size() && digit(end) == digit(at)) ++end;
  return text.substr(at, end - at);
}

}  // namespace

bool id_before(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    std::string_view x = run_at(a, i), y = run_at(b, j);
    i += x.size();
    j += y.size();
    if (std::isdigit(static_cast<unsigned char>(x[0])) && std::isdigit(static_cast<unsigned char>(y[0]))) {
      x.remove_prefix(std::min(x.find_first_not_of('0'), x.size()));
      y.remove_prefix(std::min(y.find_first_not_of('0'), y.size()));
      if (x.size() != y.size()) return x.size() < y.size();
    }
    if (x != y) return x < y;
  }
  return a.size() - i < b.size() - j;
}

ConfiguredExperiment read_experiment(const std::string& path, bool quick, const ExperimentList& list) {
  const ConfigNode root = read_config_tree(path);
  ConfiguredExperiment out{id_of(root), path, configured(root, list), {}};
  std::unique_ptr<Experiment> shortened = configured(quick_form(root), list);
  if (quick) out.experiment = std::move(shortened);
  const std::unique_ptr<Experiment> standard = make_experiment(out.experiment->name(), list);
  out.changed = changes(*standard, *out.experiment);
  return out;
}

std::vector<ConfiguredExperiment> read_laboratory(const std::string& folder, bool quick,
                                                  const ExperimentList& list) {
  std::vector<std::string> files;
  std::error_code failed;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, failed))
    if (entry.path().extension() == ".yaml") files.push_back(entry.path().string());
  if (files.empty())
    throw RequestError(
        fmt::format("{} holds no experiments (*.yaml); name another folder with --configs", folder));
  std::sort(files.begin(), files.end());
  std::vector<ConfiguredExperiment> all;
  for (const std::string& file : files) {
    ConfiguredExperiment next = read_experiment(file, quick, list);
    for (const ConfiguredExperiment& other : all)
      if (other.id == next.id)
        throw RequestError(
            fmt::format("{}: id \"{}\" is that of {} already; give another", file, next.id, other.file));
    all.push_back(std::move(next));
  }
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return id_before(a.id, b.id); });
  return all;
}

std::vector<ConfiguredExperiment> chosen(const std::vector<std::string>& wanted, const std::string& folder,
                                         bool quick, const ExperimentList& list) {
  std::vector<ConfiguredExperiment> laboratory, out;
  if (!std::all_of(wanted.begin(), wanted.end(), is_path)) laboratory = read_laboratory(folder, quick, list);
  std::vector<std::string> ids;
  for (const ConfiguredExperiment& e : laboratory) ids.push_back(e.id);
  const auto add = [&](ConfiguredExperiment& e) {
    for (const ConfiguredExperiment& other : out) {
      if (other.id != e.id) continue;
      if (other.file == e.file) return;
      throw RequestError(
          fmt::format("{}: id \"{}\" is that of {} already; give another", e.file, e.id, other.file));
    }
    // One that was taken before is in `out`, and the loop above has returned.
    out.push_back(std::move(e));
  };
  for (const std::string& word : wanted) {
    if (is_path(word)) {
      ConfiguredExperiment own = read_experiment(word, quick, list);
      add(own);
      continue;
    }
    if (word != "all" && std::find(ids.begin(), ids.end(), word) == ids.end())
      throw RequestError(fmt::format("no experiment \"{}\" in {}{} (experiments: {})", word, folder,
                                     did_you_mean(word, ids), listed(ids)));
    for (std::size_t i = 0; i < laboratory.size(); ++i)
      if (word == "all" || word == ids[i])
        if (laboratory[i].experiment) add(laboratory[i]);
  }
  return out;
}

}  // namespace spectrain::lab
