#include "optim/muon.h"

#include <fmt/format.h>

#include "optim/check_option.h"
#include "optim/matrix_rule.h"
#include "optim/momentum.h"
#include "optim/newton_schulz.h"
#include "optim/registry.h"

namespace spectrain {

const RuleInfo& info_of(const MuonOptions&) {
  static const RuleInfo info{
      "muon", "u = momentum(G);  W = (1 - lr decay) W - lr s NewtonSchulz(u)",
      "Jordan et al. 2024 (kellerjordan.github.io/posts/muon); Liu et al. 2025 (2502.16982)", true};
  return info;
}

void describe_options(OptionVisitor& v, MuonOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  describe_momentum(v, o);
  describe_shape_scale(v, o.shape_scale);
  describe_newton_schulz(v, o.newton_schulz);
}

std::unique_ptr<UpdateRule> make_rule(const MuonOptions& o, const FinishOptions& finish) {
  check_options("muon", o);
  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<Momentum>(o));
  stages.push_back(std::make_unique<NewtonSchulz>(o.newton_schulz));
  const std::string settings =
      fmt::format("{}, {}, {}", momentum_settings(o), name_of(o.shape_scale), describe(o.newton_schulz));
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"muon", settings, o.lr, o.weight_decay, o.shape_scale}, std::move(stages), finish);
}

RuleOptions muon() { return MuonOptions{}; }

}  // namespace spectrain
