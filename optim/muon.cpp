#include "optim/muon.h"

#include <fmt/format.h>

#include "optim/check_option.h"
#include "optim/matrix_rule.h"
#include "optim/momentum.h"
#include "optim/newton_schulz.h"

namespace spectrain {

namespace {

std::string settings(const MuonOptions& o) {
  std::string momentum = fmt::format("momentum {}", o.momentum);
  if (o.momentum_warmup.steps > 0)
    momentum += fmt::format(" (from {} in {} steps)", o.momentum_warmup.start, o.momentum_warmup.steps);
  return fmt::format("{}{}, {}, {}", momentum, o.nesterov ? " nesterov" : "", name_of(o.shape_scale),
                     describe(o.newton_schulz));
}

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const MuonOptions& o) {
  check_not_negative("muon", "lr", o.lr);
  check_not_negative("muon", "weight_decay", o.weight_decay);
  check_fraction("muon", "momentum", o.momentum);
  check_fraction("muon", "momentum_warmup.start", o.momentum_warmup.start);

  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<EmaMomentum>(o.momentum, o.nesterov, o.momentum_warmup));
  stages.push_back(std::make_unique<NewtonSchulz>(o.newton_schulz));
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"muon", settings(o), o.lr, o.weight_decay, o.shape_scale}, std::move(stages));
}

}  // namespace spectrain
