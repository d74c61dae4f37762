#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "optim/option.h"
#include "train/config.h"

namespace spectrain {

// Every configuration key is listed once, in config_keys.cpp, with its name, the field it fills, its range
// and its meaning. The parser, the YAML writer and the key reference are visitors of that one listing.

class KeyVisitor : public OptionVisitor {
 public:
  virtual void groups(std::string_view name, std::string_view meaning, std::vector<GroupConfig>& groups) = 0;
};

void describe(KeyVisitor& v, RunConfig& config);
void describe(OptionVisitor& v, GroupConfig& group);  // rule comes before the keys that depend on it

// Its parts that do not depend on the rule: the keys before the rule's own and those after them.
void describe_begin(OptionVisitor& v, GroupConfig& group);
void describe_end(OptionVisitor& v, GroupConfig& group);

// The keys of one rule with defaults, types, ranges and meanings, as in key_reference().
std::string rule_reference(const RuleOptions& rule);

// The path of a key inside a section: "" and "train" give "train", "train" and "steps" give "train.steps".
std::string key_path(std::string_view section, std::string_view name);

}  // namespace spectrain
