#include "train/plan_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "kernels/error.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

using Kind = ConfigNode::Kind;

[[noreturn]] void refuse(const ConfigNode& node, const std::string& path, std::string_view wanted) {
  const std::string is = node.kind == Kind::scalar ? fmt::format("\"{}\"", node.text)
                         : node.kind == Kind::list ? "a list"
                         : node.kind == Kind::map  ? "a map"
                                                   : "nothing";
  throw RequestError(fmt::format("{}: {} must be {}, not {}", node.place, path, wanted, is));
}

}  // namespace

double number_of(const ConfigNode& node, const std::string& path) {
  double value = 0;
  if (node.kind != Kind::scalar || node.quoted) refuse(node, path, "a number");
  const char* const last = node.text.data() + node.text.size();
  const auto [end, error] = std::from_chars(node.text.data(), last, value);
  if (error != std::errc() || end != last || !std::isfinite(value)) refuse(node, path, "a number");
  return value;
}

std::int64_t count_of(const ConfigNode& node, const std::string& path, std::int64_t low, std::int64_t high) {
  std::int64_t value = 0;
  if (node.kind != Kind::scalar || node.quoted) refuse(node, path, "a whole number");
  const char* const last = node.text.data() + node.text.size();
  const auto [end, error] = std::from_chars(node.text.data(), last, value);
  if (error != std::errc() || end != last) refuse(node, path, "a whole number");
  if (value < low || value > high)
    throw RequestError(
        fmt::format("{}: {} is {}; it must be in [{}, {}]", node.place, path, value, low, high));
  return value;
}

std::string text_of(const ConfigNode& node, const std::string& path) {
  if (node.kind != Kind::scalar || node.text.empty()) refuse(node, path, "text");
  return node.text;
}

std::vector<const ConfigNode*> elements_of(const ConfigNode& node, const std::string& path) {
  if (node.kind == Kind::scalar) return {&node};
  if (node.kind != Kind::list || node.items.empty()) refuse(node, path, "a list with at least one element");
  std::vector<const ConfigNode*> out;
  for (const ConfigNode& item : node.items) out.push_back(&item);
  return out;
}

PlanReader::PlanReader(const ConfigNode& map, std::string path) : map_(map), path_(std::move(path)) {
  if (map.kind != Kind::map) refuse(map, path_.empty() ? "the plan" : path_, "a map of keys");
}

std::string PlanReader::key_path(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

const ConfigNode* PlanReader::take(std::string_view key) {
  known_.emplace_back(key);
  return map_.find(key);
}

const ConfigNode& PlanReader::require(std::string_view key, std::string_view example) {
  if (const ConfigNode* node = take(key)) return *node;
  // A slip of the finger is told from a key that nobody thought of.
  const std::vector<std::string> wanted{std::string(key)};
  for (const ConfigNode::Member& m : map_.members)
    if (nearest(m.key, wanted) == key && std::find(known_.begin(), known_.end(), m.key) == known_.end())
      throw RequestError(
          fmt::format("{}: unknown key \"{}\"{}", m.place, key_path(m.key), did_you_mean(m.key, wanted)));
  throw RequestError(
      fmt::format("{}: {} is missing; give one, as in \"{}: {}\"", map_.place, key_path(key), key, example));
}

std::string PlanReader::text(std::string_view key, const std::string& otherwise) {
  const ConfigNode* node = take(key);
  return node ? text_of(*node, key_path(key)) : otherwise;
}

double PlanReader::number(std::string_view key, double otherwise) {
  const ConfigNode* node = take(key);
  if (!node) return otherwise;
  const double value = number_of(*node, key_path(key));
  if (value < 0)
    throw RequestError(fmt::format("{}: {} is {}; it must be >= 0", node->place, key_path(key), value));
  return value;
}

std::int64_t PlanReader::count(std::string_view key, std::int64_t low, std::int64_t high,
                               std::int64_t otherwise) {
  const ConfigNode* node = take(key);
  return node ? count_of(*node, key_path(key), low, high) : otherwise;
}

bool PlanReader::truth(std::string_view key, bool otherwise) {
  const ConfigNode* node = take(key);
  if (!node) return otherwise;
  if (node->kind != Kind::scalar || node->quoted || (node->text != "true" && node->text != "false"))
    refuse(*node, key_path(key), "true or false");
  return node->text == "true";
}

std::size_t PlanReader::word(std::string_view key, const std::vector<std::string>& words,
                             std::size_t otherwise) {
  const ConfigNode* node = take(key);
  if (!node) return otherwise;
  const std::string given = text_of(*node, key_path(key));
  const auto found = std::find(words.begin(), words.end(), given);
  if (found == words.end())
    throw RequestError(fmt::format("{}: {} is \"{}\"; it must be one of {}{}", node->place, key_path(key),
                                   given, listed(words), did_you_mean(given, words)));
  return static_cast<std::size_t>(found - words.begin());
}

void PlanReader::finish() const {
  for (const ConfigNode::Member& m : map_.members)
    if (std::find(known_.begin(), known_.end(), m.key) == known_.end())
      throw RequestError(fmt::format("{}: unknown key \"{}\"{} (keys here: {})", m.place, key_path(m.key),
                                     did_you_mean(m.key, known_), listed(known_)));
}

}  // namespace spectrain
