#pragma once

#include <cstdint>
#include <string>

#include "optim/option.h"
#include "optim/schedule.h"

namespace spectrain {

enum class MomentumForm : std::uint8_t {
  ema,  // m = mu m + (1 - mu) g       u = nesterov ? mu m + (1 - mu) g : m
  sum,  // m = mu m + g                u = nesterov ? mu m + g : m
};

// The options of momentum.h, inherited by those of the rules that have it.
struct MomentumOptions {
  double momentum = 0.95;
  bool nesterov = true;
  MomentumForm momentum_form = MomentumForm::ema;
  MomentumWarmup momentum_warmup;
  MomentumCooldown momentum_cooldown;
  bool operator==(const MomentumOptions&) const = default;
};

// The options as keys, and their words in the printed table: "momentum 0.95 (from 0.85 in 300 steps)
// nesterov".
void describe_momentum(OptionVisitor& v, MomentumOptions& o);
std::string momentum_settings(const MomentumOptions& o);

}  // namespace spectrain
