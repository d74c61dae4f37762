#include "train/compare_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "kernels/error.h"
#include "train/checksum.h"
#include "train/config_keys.h"
#include "train/config_parser.h"
#include "train/config_yaml.h"
#include "train/durable_file.h"
#include "train/session.h"

namespace spectrain {
namespace {

ConfigNode base_tree(const ComparePlan& plan) {
  ConfigNode tree = read_config_tree(plan.base);
  for (const Setting& s : plan.settings) apply_value(tree, s.key, s.value);
  return tree;
}

RunConfig parsed(const ConfigNode& tree, const ComparePlan& plan) {
  RunConfig config;
  const Places places = parse_config(tree, config);
  check_config(config, places, plan.base, ConfigUse::run);
  return with_resolved_model(std::move(config));
}

ConfigNode scalar(double value, const std::string& place) {
  ConfigNode node;
  node.kind = ConfigNode::Kind::scalar;
  node.text = fmt::format("{}", value);
  node.place = place;
  return node;
}

std::string inline_text(const ConfigNode& node) {
  if (node.kind != ConfigNode::Kind::list) return node.text;
  std::string out = "[";
  for (const ConfigNode& item : node.items) out += (out.size() > 1 ? ", " : "") + inline_text(item);
  return out + "]";
}

void flatten(const ConfigNode& node, const std::string& path, FlatConfig& out) {
  const auto is_map = [](const ConfigNode& n) { return n.kind == ConfigNode::Kind::map; };
  if (is_map(node)) {
    for (const ConfigNode::Member& m : node.members) flatten(m.value, key_path(path, m.key), out);
  } else if (std::any_of(node.items.begin(), node.items.end(), is_map)) {
    for (std::size_t i = 0; i < node.items.size(); ++i)
      flatten(node.items[i], key_path(path, std::to_string(i)), out);
  } else {
    out.emplace_back(path, inline_text(node));
  }
}

bool changes_nothing(const std::string& key) {
  for (const char* section : {"train.checkpoint."})
    if (key.starts_with(section)) return true;
  for (const char* exact :
       {"run.name", "run.directory", "compute.threads", "data.tokenizer", "train.tensorboard", "train.target",
        "distributed.timeout", "distributed.check_every"})
    if (key == exact) return true;
  return false;
}

std::string text_of(const FlatConfig& flat) {
  std::string text;
  for (const auto& [key, value] : flat)
    if (!changes_nothing(key)) text += fmt::format("{}: {}\n", key, value);
  return text;
}

// Groups of the same rules and parameters with the defaults of everything else.
RunConfig with_defaults(const RunConfig& config) {
  RunConfig defaults;
  for (const GroupConfig& group : config.optimizer.groups)
    for (const RuleOptions& rule : all_rules())
      if (rule.info().name == group.rule.info().name)
        defaults.optimizer.groups.push_back({group.parameters, rule});
  return defaults;
}

bool names_a_group(const std::string& key) {
  return key.starts_with("optimizer.") && (key.ends_with(".rule") || key.ends_with(".parameters"));
}

std::string value_of(const FlatConfig& flat, const std::string& key) {
  for (const auto& [name, value] : flat)
    if (name == key) return value;
  return "not there";
}

// Size and samples: enough to notice another file, quick on files of gigabytes.
constexpr std::uint64_t kSamples = 64, kSampleBytes = 16384;

void add_file(Checksum& sum, const InputFile& file) {
  const std::uint64_t bytes = file.bytes();
  sum.update(&bytes, sizeof bytes);
  std::array<char, kSampleBytes> buffer;
  const std::uint64_t last = bytes - std::min(bytes, kSampleBytes);
  const std::uint64_t count = std::min(kSamples, last / kSampleBytes + 2);
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t at = last / (count - 1) * i + (i + 1 == count ? last % (count - 1) : 0);
    const std::uint64_t n = std::min(kSampleBytes, bytes - at);
    file.read(at, buffer.data(), n);
    sum.update(buffer.data(), n);
  }
}

std::string fingerprint(const std::vector<std::string>& patterns) {
  Checksum sum;
  std::uint64_t bytes = 0;
  const std::vector<std::string> files = expand_shards(patterns);
  for (const std::string& path : files) {
    const InputFile file(path);
    add_file(sum, file);
    bytes += file.bytes();
  }
  return fmt::format("{} file{} of {} bytes with hash {}", files.size(), files.size() == 1 ? "" : "s", bytes,
                     checksum_text(sum.digest()));
}

// What must be equal, as key and value.
FlatConfig compared_values(const RunConfig& config, std::map<std::vector<std::string>, std::string>& known) {
  FlatConfig out;
  for (const auto& [key, value] : flattened(config)) {
    const bool exact = key == "data.order" || key == "batch.tokens" || key == "batch.context" ||
                       key == "compute.precision" || key == "compute.device" ||
                       key == "train.validate.tokens";
    if (exact || key.starts_with("model.")) out.emplace_back(key, value);
  }
  out.emplace_back("train.steps", fmt::format("{}", config.steps()));
  const auto data = [&](const char* key, const std::vector<std::string>& patterns) {
    auto found = known.find(patterns);
    if (found == known.end()) found = known.emplace(patterns, fingerprint(patterns)).first;
    out.emplace_back(key, found->second);
  };
  data("data.train", config.data.train);
  data("data.validation", config.data.validation);
  return out;
}

}  // namespace

RunConfig base_configuration(const ComparePlan& plan) { return parsed(base_tree(plan), plan); }

RunConfig configuration(const ComparePlan& plan, const PlanVariant& variant, const GridPoint& point,
                        std::uint64_t seed) {
  ConfigNode tree = base_tree(plan);
  for (const Setting& s : variant.settings) apply_value(tree, s.key, s.value);
  for (const PlanAxis& axis : variant.axes)
    for (const auto& [name, value] : point)
      if (name == axis.name)
        for (const auto& [key, factor] : axis.keys)
          apply_value(tree, key, scalar(six_digits(factor * value), axis.place));
  RunConfig config = parsed(tree, plan);
  config.run.seed = seed;
  return config;
}

FlatConfig flattened(const RunConfig& config) {
  FlatConfig out;
  flatten(read_yaml_text(to_yaml(config), "the configuration"), "", out);
  return out;
}

std::string identity(const RunConfig& config) { return text_of(flattened(config)); }

std::string identity_hash(const RunConfig& config) {
  const FlatConfig defaults = flattened(with_defaults(config));
  FlatConfig own;
  for (const auto& entry : flattened(config))
    if (names_a_group(entry.first) || std::find(defaults.begin(), defaults.end(), entry) == defaults.end())
      own.push_back(entry);
  const std::string text = text_of(own);
  return checksum_text(checksum_of(text.data(), text.size())).substr(0, 8);
}

std::vector<std::string> differences(const RunConfig& base, const RunConfig& config) {
  const FlatConfig before = flattened(base);
  std::vector<std::string> out;
  for (const auto& [key, value] : flattened(config)) {
    if (changes_nothing(key) || key == "run.seed") continue;
    const std::string old = value_of(before, key);
    if (old != value) out.push_back(fmt::format("{}: {} (base {})", key, value, old));
  }
  return out;
}

std::string data_fingerprint(const RunConfig& config) {
  return fmt::format("training {}, validation {}", fingerprint(config.data.train),
                     fingerprint(config.data.validation));
}

void check_comparable(const std::vector<NamedConfig>& configs) {
  std::map<std::vector<std::string>, std::string> known;
  FlatConfig first;
  for (const NamedConfig& named : configs) {
    if (named.config.last_step() < named.config.steps())
      throw RequestError(
          fmt::format("{}: train.stop is {} in variant \"{}\"; runs are compared at the end of their "
                      "schedules, so leave it out",
                      named.place, named.config.train.stop, named.variant));
    const FlatConfig values = compared_values(named.config, known);
    if (first.empty()) first = values;
    for (const auto& [key, value] : values)
      if (const std::string other = value_of(first, key); other != value)
        throw RequestError(fmt::format(
            "{}: {} is {} in variant \"{}\" and {} in variant \"{}\"; losses of such runs say nothing about "
            "their optimizers, so give both the same",
            named.place, key, other, configs.front().variant, value, named.variant));
  }
}

}  // namespace spectrain
