#include "train/compare_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <set>

#include "kernels/error.h"
#include "train/config_yaml.h"
#include "train/plan_reader.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

constexpr std::int64_t kMostValues = 1000;  // of an axis; more is a slip of the finger
constexpr std::int64_t kMostSeed = std::int64_t{1} << 53;

// Names become parts of directories' names.
void check_name(const std::string& name, const std::string& place, const std::string& path) {
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-";
  if (name.find_first_not_of(kAllowed) != std::string::npos || name.starts_with('.'))
    throw RequestError(fmt::format(
        "{}: {} is \"{}\"; it must be of letters, digits and _ - + . only, for directories are called so",
        place, path, name));
}

std::vector<Setting> settings_of(PlanReader& reader) {
  std::vector<Setting> out;
  const ConfigNode* node = reader.take("set");
  if (!node) return out;
  if (node->kind != ConfigNode::Kind::map)
    throw RequestError(fmt::format("{}: {} must be a map of configuration keys, {{train.steps: 200}}",
                                   node->place, reader.key_path("set")));
  for (const ConfigNode::Member& m : node->members) {
    if (m.key == "run" || m.key.starts_with("run."))
      throw RequestError(
          fmt::format("{}: {} cannot be set: the comparison names its runs, and `seeds` counts "
                      "them; take it away",
                      m.place, m.key));
    out.push_back({m.key, m.value});
  }
  return out;
}

void read_keys(PlanReader& reader, PlanAxis& axis) {
  const auto add = [&](const std::string& key, double factor) {
    for (const auto& [other, unused] : axis.keys)
      if (other == key)
        throw RequestError(fmt::format("{}: grid {} names {} twice", axis.place, axis.name, key));
    axis.keys.emplace_back(key, factor);
  };
  const auto add_factors = [&](const ConfigNode& map, const std::string& path) {
    for (const ConfigNode::Member& m : map.members) {
      const double factor = number_of(m.value, path + "." + m.key);
      if (factor == 0) throw RequestError(fmt::format("{}: {}.{} is 0", m.place, path, m.key));
      add(m.key, factor);
    }
  };
  const ConfigNode* keys = reader.take("keys");
  if (keys && keys->kind == ConfigNode::Kind::map)
    add_factors(*keys, reader.key_path("keys"));
  else if (keys)
    for (const ConfigNode* key : elements_of(*keys, reader.key_path("keys")))
      add(text_of(*key, reader.key_path("keys")), 1);
  if (const ConfigNode* factors = reader.take("factors")) {
    PlanReader(*factors, reader.key_path("factors"));  // a map
    add_factors(*factors, reader.key_path("factors"));
  }
  if (axis.keys.empty())
    throw RequestError(fmt::format("{}: {} is missing; name what the grid sets, \"keys: [optimizer.0.lr]\"",
                                   axis.place, reader.key_path("keys")));
}

// Between neighbours at an end of ascending values; 0 where a quotient makes no sense.
double quotient(double lower, double upper) { return lower > 0 && upper > lower ? upper / lower : 0; }

void read_values(PlanReader& reader, PlanAxis& axis) {
  const ConfigNode* list = reader.take("values");
  const ConfigNode* from = reader.take("from");
  const ConfigNode* to = reader.take("to");
  const ConfigNode* count = reader.take("count");
  const std::string place = axis.place;
  if ((list != nullptr) == (from || to || count))
    throw RequestError(
        fmt::format("{}: grid {} needs either values, \"values: [0.01, 0.02]\", or from, to and count", place,
                    axis.name));
  if (list) {
    for (const ConfigNode* value : elements_of(*list, reader.key_path("values")))
      axis.values.push_back(six_digits(number_of(*value, reader.key_path("values"))));
  } else {
    if (!from || !to || !count)
      throw RequestError(fmt::format("{}: grid {} needs all three of from, to and count", place, axis.name));
    const double low = number_of(*from, reader.key_path("from")),
                 high = number_of(*to, reader.key_path("to"));
    const std::int64_t n = count_of(*count, reader.key_path("count"), 2, kMostValues);
    if (low <= 0 || high <= low)
      throw RequestError(
          fmt::format("{}: grid {} goes from {} to {}; its values are spaced by equal ratios, so 0 < "
                      "from < to must hold",
                      from->place, axis.name, low, high));
    for (std::int64_t i = 0; i < n; ++i)
      axis.values.push_back(
          six_digits(low * std::pow(high / low, static_cast<double>(i) / static_cast<double>(n - 1))));
    axis.step_up = axis.step_down = std::pow(high / low, 1 / static_cast<double>(n - 1));
  }
  std::sort(axis.values.begin(), axis.values.end());
  if (std::adjacent_find(axis.values.begin(), axis.values.end()) != axis.values.end())
    throw RequestError(fmt::format("{}: grid {} has a value twice", place, axis.name));
  if (list && axis.values.size() > 1) {
    const std::size_t n = axis.values.size();
    axis.step_down = quotient(axis.values[0], axis.values[1]);
    axis.step_up = quotient(axis.values[n - 2], axis.values[n - 1]);
  }
}

void read_grid(PlanReader& reader, PlanVariant& variant) {
  const ConfigNode* grid = reader.take("grid");
  if (!grid) return;
  PlanReader(*grid, reader.key_path("grid"));  // a map
  for (const ConfigNode::Member& m : grid->members) {
    PlanAxis axis;
    axis.name = m.key;
    axis.place = m.place;
    check_name(axis.name, m.place, "the name of a grid");
    PlanReader inside(m.value, reader.key_path("grid") + "." + m.key);
    read_keys(inside, axis);
    read_values(inside, axis);
    inside.finish();
    variant.axes.push_back(std::move(axis));
  }
}

PlanVariant read_variant(const ConfigNode& node, const std::string& path) {
  PlanReader reader(node, path);
  PlanVariant variant;
  variant.place = node.place;
  variant.name = text_of(reader.require("name", "muon"), reader.key_path("name"));
  check_name(variant.name, node.place, reader.key_path("name"));
  variant.settings = settings_of(reader);
  read_grid(reader, variant);
  variant.full_search = reader.word("search", {"coordinate", "full"}, 0) == 1;
  reader.finish();
  return variant;
}

std::vector<std::uint64_t> read_seeds(PlanReader& reader, std::string_view key,
                                      std::vector<std::uint64_t> otherwise) {
  const ConfigNode* node = reader.take(key);
  if (!node) return otherwise;
  std::vector<std::uint64_t> seeds;
  for (const ConfigNode* item : elements_of(*node, reader.key_path(key))) {
    const auto seed = static_cast<std::uint64_t>(count_of(*item, reader.key_path(key), 0, kMostSeed));
    if (std::find(seeds.begin(), seeds.end(), seed) != seeds.end())
      throw RequestError(fmt::format("{}: {} names {} twice", item->place, reader.key_path(key), seed));
    seeds.push_back(seed);
  }
  return seeds;
}

void read_horizons(PlanReader& reader, ComparePlan& plan) {
  const ConfigNode* node = reader.take("horizons");
  if (!node) return;
  for (const ConfigNode* item : elements_of(*node, "horizons")) {
    const double horizon = number_of(*item, "horizons");
    if (horizon <= 0 || horizon == 1)
      throw RequestError(
          fmt::format("{}: horizons holds {}; it must be of multiples of the steps, > 0 and not 1",
                      item->place, item->text));
    plan.horizons.push_back(horizon);
  }
}

void read_variants(PlanReader& reader, ComparePlan& plan) {
  const ConfigNode& list = reader.require("variants", "[{name: muon, set: {...}}]");
  std::set<std::string> names;
  std::size_t i = 0;
  for (const ConfigNode* item : elements_of(list, "variants")) {
    plan.variants.push_back(read_variant(*item, fmt::format("variants.{}", i++)));
    if (!names.insert(plan.variants.back().name).second)
      throw RequestError(
          fmt::format("{}: a second variant is called \"{}\"", item->place, plan.variants.back().name));
  }
}

void read_significance(PlanReader& reader, ComparePlan& plan) {
  const ConfigNode* node = reader.take("significance");
  if (!node) return;
  PlanReader inside(*node, "significance");
  constexpr SignificanceRule kRules[] = {SignificanceRule::welch, SignificanceRule::paired,
                                         SignificanceRule::track3};
  plan.rule = kRules[inside.word("rule", {"welch", "paired", "track3"}, 0)];
  plan.sigma = inside.number("sigma", plan.sigma);
  plan.threshold = inside.number("threshold", plan.threshold);
  inside.finish();
}

void read_all_seeds(PlanReader& reader, ComparePlan& plan) {
  const ConfigNode* node = reader.take("seeds");
  if (!node) return;
  PlanReader inside(*node, "seeds");
  plan.sweep_seeds = read_seeds(inside, "sweep", plan.sweep_seeds);
  plan.final_seeds = read_seeds(inside, "final", plan.sweep_seeds);
  inside.finish();
}

}  // namespace

double six_digits(double value) { return std::strtod(fmt::format("{:.6g}", value).c_str(), nullptr); }

double beyond(const PlanAxis& axis, bool upward, int n) {
  return six_digits(upward ? axis.values.back() * std::pow(axis.step_up, n)
                           : axis.values.front() / std::pow(axis.step_down, n));
}

ComparePlan read_compare_plan(const std::string& path) {
  const ConfigNode root = read_yaml_file(path);
  PlanReader reader(root, "");
  ComparePlan plan;
  plan.path = path;
  const ConfigNode& base = reader.require("base", "../quickstart.yaml");
  plan.base = path_beside(path, text_of(base, "base"));
  if (!file_exists(plan.base))
    throw RequestError(
        fmt::format("{}: base \"{}\" names no file ({} is looked for; the path counts from "
                    "the plan)",
                    base.place, base.text, plan.base));
  plan.name = reader.text("name", std::filesystem::path(path).stem().string());
  check_name(plan.name, root.place, "name");
  plan.directory = reader.text("directory", "runs/compare");
  plan.settings = settings_of(reader);
  const ConfigNode* baseline = reader.take("baseline");
  plan.target = reader.number("target", 0);
  read_all_seeds(reader, plan);
  read_horizons(reader, plan);
  plan.extend = static_cast<int>(reader.count("extend", 0, 100, plan.extend));
  read_significance(reader, plan);
  plan.parallel = static_cast<int>(reader.count("parallel", 0, 1024, plan.parallel));
  plan.save = reader.truth("save", plan.save);
  plan.tensorboard = reader.truth("tensorboard", plan.tensorboard);
  read_variants(reader, plan);
  reader.finish();

  std::vector<std::string> names;
  for (const PlanVariant& v : plan.variants) names.push_back(v.name);
  plan.baseline = baseline ? text_of(*baseline, "baseline") : names.front();
  if (std::find(names.begin(), names.end(), plan.baseline) == names.end())
    throw RequestError(fmt::format("{}: baseline is \"{}\", which is no variant{} (variants: {})",
                                   baseline->place, plan.baseline, did_you_mean(plan.baseline, names),
                                   listed(names)));
  return plan;
}

}  // namespace spectrain
