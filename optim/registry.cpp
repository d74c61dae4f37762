#include "optim/registry.h"

namespace spectrain {

const std::vector<RuleOptions>& all_rules() {
#define SPECTRAIN_LIST_RULE(name) name(),
  static const std::vector<RuleOptions> rules = {SPECTRAIN_RULES(SPECTRAIN_LIST_RULE)};
#undef SPECTRAIN_LIST_RULE
  return rules;
}

}  // namespace spectrain
