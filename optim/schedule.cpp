#include "optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace spectrain {

namespace {

// What is left of the descent at `step`: 1 until `start`, 0 from `end` on. One division, so that the
// speedrun's (steps - step) / cooldown comes out to the last bit.
double remaining(std::int64_t step, std::int64_t start, std::int64_t end) {
  if (step >= end) return 0;
  if (step <= start) return 1;
  return static_cast<double>(end - step) / static_cast<double>(end - start);
}

double descent(const ScheduleConfig& c, std::int64_t step, std::int64_t steps) {
  const std::int64_t end = c.end_reached ? steps - 1 : steps;
  const std::int64_t cooldown = std::llround(c.cooldown * static_cast<double>(steps));
  const bool trapezoid = c.shape == ScheduleShape::trapezoid;
  if (trapezoid ? cooldown <= 0 : step < c.warmup) return 1;
  switch (c.shape) {
    case ScheduleShape::constant:
      return 1;
    case ScheduleShape::cosine:
      return 0.5 * (1 - std::cos(std::numbers::pi * remaining(step, c.warmup, end)));
    case ScheduleShape::linear:
      return remaining(step, c.warmup, end);
    case ScheduleShape::trapezoid:
      return remaining(step, end - cooldown, end);
  }
  return 1;
}

}  // namespace

double schedule_factor(const ScheduleConfig& c, std::int64_t step, std::int64_t steps) {
  const bool warming = step < c.warmup;
  const double rise = warming ? static_cast<double>(step + 1) / static_cast<double>(c.warmup) : 1;
  const double straight = descent(c, step, steps);
  const double left = c.power == 1 ? straight : std::pow(straight, c.power);
  // Not floor + (1 - floor) at the top: that sum may miss 1 by an ulp.
  const double fall = left >= 1 ? 1 : c.floor + (1 - c.floor) * left;
  // Only a trapezoid can be told to warm up and cool down at once; then it is a triangle, without a jump.
  return std::min(rise, fall);
}

double momentum_at(const MomentumWarmup& w, const MomentumCooldown& c, double momentum, std::int64_t step,
                   std::int64_t run_steps) {
  double mu = momentum;
  if (step < w.steps) {
    const double share = static_cast<double>(step) / static_cast<double>(w.steps);
    mu = w.start + (momentum - w.start) * share;
  }
  const std::int64_t begin = run_steps - c.steps;
  if (run_steps == 0 || c.steps == 0 || step <= begin) return mu;
  const double share = static_cast<double>(step - begin) / static_cast<double>(c.steps);
  return mu + (c.end - mu) * share;
}

}  // namespace spectrain
