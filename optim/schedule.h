#pragma once

#include <cstdint>

namespace spectrain {

enum class ScheduleShape : std::uint8_t { constant, cosine, linear, trapezoid };

// The factor on every learning rate, over steps 0 .. steps-1.
//
//   warm-up: (step + 1) / warmup for step < warmup, so that step 0 already learns and step warmup-1 is at 1
//   cosine, linear: from 1 at step `warmup` down to `floor` at the last step
//   trapezoid: 1 until the last `cooldown` share of the steps, then linear down to `floor`
//              (Haegele et al. 2024)
//
// The descent may be bent: with `left` what is left of it, from 1 to 0, the factor is
// floor + (1 - floor) left^power (modded-nanogpt track 3: "PowerCool", 1.2 or 1.5).
//
// end_reached true: the last step has exactly `floor`. false: `floor` would come one step after the last, the
// speedrun's (N - step) / cooldown steps. The cool-down has round(cooldown * steps) steps. A trapezoid whose
// warm-up and cool-down overlap is a triangle (the lesser of the two); a cosine or linear run that ends
// within its warm-up never falls.
struct ScheduleConfig {
  ScheduleShape shape = ScheduleShape::trapezoid;
  std::int64_t warmup = 0;  // steps
  double cooldown = 0.3;    // share of all steps, trapezoid only
  double floor = 0;         // lowest factor
  bool end_reached = true;
  double power = 1;  // of what is left of the descent: floor + (1 - floor) left^power
  bool operator==(const ScheduleConfig&) const = default;
};

double schedule_factor(const ScheduleConfig& c, std::int64_t step, std::int64_t steps);

// momentum at a step: from `start` to `momentum` linearly over `steps` steps (0: always `momentum`).
struct MomentumWarmup {
  double start = 0.85;
  std::int64_t steps = 0;
  bool operator==(const MomentumWarmup&) const = default;
};
// Over the last `steps` steps of the run it falls, linearly, toward `end`, which the step after the last
// would have (modded-nanogpt, record 89: 0.85 in 50 steps). steps 0: it does not.
struct MomentumCooldown {
  double end = 0.85;
  std::int64_t steps = 0;
  bool operator==(const MomentumCooldown&) const = default;
};
// run_steps: of the whole run; 0: not known, no cool-down. Where both overlap the cool-down begins at what
// the warm-up has reached at each step.
double momentum_at(const MomentumWarmup& w, const MomentumCooldown& c, double momentum, std::int64_t step,
                   std::int64_t run_steps);

}  // namespace spectrain
