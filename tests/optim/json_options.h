#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "optim/optimizer.h"

// Options from JSON, under the names they have in a configuration, and the numbers that fixtures are made of.

namespace spectrain {

class JsonOptions final : public OptionVisitor {
 public:
  explicit JsonOptions(const nlohmann::json& values) : values_(values) {}
  ~JsonOptions() override = default;

  void field(std::string_view name, const Field& field, const Range&, std::string_view) override {
    const auto found = values_.find(std::string(name));
    if (found == values_.end()) return;
    ++used_;
    std::visit([&](const auto& target) { set(target, *found); }, field);
  }
  void section(std::string_view name, std::string_view,
               const std::function<void(OptionVisitor&)>& inside) override {
    const auto found = values_.find(std::string(name));
    if (found == values_.end()) return;
    ++used_;
    JsonOptions child(*found);
    inside(child);
    child.finish();
  }
  // Every value was an option's.
  void finish() const {
    if (used_ != values_.size()) throw std::logic_error("an option that is not there: " + values_.dump());
  }

 private:
  template <class T>
  static void set(T* target, const nlohmann::json& value) {
    *target = value.get<T>();
  }
  static void set(const Choice& choice, const nlohmann::json& value) {
    for (std::size_t i = 0; i < choice.words.size(); ++i)
      if (choice.words[i] == value.get<std::string>()) return choice.set(i);
    throw std::logic_error("a word that is not there: " + value.dump());
  }
  static void set(const Choices&, const nlohmann::json&) {
    throw std::logic_error("no rule has a list of words");
  }
  static void set(const Tuple& tuple, const nlohmann::json& value) {
    for (std::size_t i = 0; i < tuple.fields.size(); ++i) *tuple.fields[i] = value.at(i).get<double>();
  }

  const nlohmann::json& values_;
  std::size_t used_ = 0;
};

inline RuleOptions rule_from_json(const std::string& name, const nlohmann::json& values) {
  for (RuleOptions rule : all_rules())
    if (rule.info().name == name) {
      JsonOptions reader(values);
      rule.describe(reader);
      reader.finish();
      return rule;
    }
  throw std::logic_error("no rule " + name);
}

// In [-1, 1), a multiple of 2^-23: noise() of the scripts that make the fixtures.
inline double fixture_noise(std::uint64_t seed, std::uint64_t i) {
  std::uint64_t z = seed * 0x9E3779B97F4A7C15ULL + (i + 1) * 0xBF58476D1CE4E5B9ULL;
  z ^= z >> 30;
  z *= 0xBF58476D1CE4E5B9ULL;
  z ^= z >> 27;
  z *= 0x94D049BB133111EBULL;
  z ^= z >> 31;
  return static_cast<double>(z >> 40) / 8388608.0 - 1;
}

// The schedule of their ten steps.
inline constexpr int kFixtureSteps = 10;
inline double fixture_factor(int step) { return step < 4 ? (step + 1) / 4.0 : 1 - step / 16.0; }

// The cases of tests/optim/fixtures/<name>.
inline nlohmann::json fixture_cases(const std::string& name) {
  std::ifstream in(SPECTRAIN_SOURCE_DIR "/tests/optim/fixtures/" + name);
  return nlohmann::json::parse(in);
}

}  // namespace spectrain
