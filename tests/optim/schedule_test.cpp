#include "optim/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace spectrain {
namespace {

constexpr double kUlp = std::numeric_limits<double>::epsilon();

std::vector<ScheduleConfig> every_config() {
  std::vector<ScheduleConfig> all;
  for (const auto shape :
       {ScheduleShape::constant, ScheduleShape::cosine, ScheduleShape::linear, ScheduleShape::trapezoid})
    for (const std::int64_t warmup : {0, 1, 10, 33})
      for (const double floor : {0.0, 0.1, 1.0 / 3})
        for (const bool end_reached : {true, false}) all.push_back({shape, warmup, 0.3, floor, end_reached});
  return all;
}

TEST(Schedule, EndPointsToOneUlp) {
  for (const ScheduleConfig& c : every_config())
    for (const std::int64_t steps : {50, 1000, 5100}) {
      const double first = schedule_factor(c, 0, steps), last = schedule_factor(c, steps - 1, steps);
      EXPECT_GT(first, 0) << "step 0 must learn";
      if (c.warmup > 0) {
        EXPECT_NEAR(first, 1.0 / static_cast<double>(c.warmup), kUlp);
        EXPECT_EQ(schedule_factor(c, c.warmup - 1, steps), 1);
      }
      EXPECT_NEAR(schedule_factor(c, c.warmup, steps), 1, kUlp);
      if (c.shape == ScheduleShape::constant) {
        EXPECT_EQ(last, 1);
      } else if (c.end_reached) {
        EXPECT_EQ(last, c.floor);
      } else {
        EXPECT_GT(last, c.floor);
      }
    }
}

TEST(Schedule, RisesThenNeverRisesAgain) {
  for (const ScheduleConfig& c : every_config()) {
    const std::int64_t steps = 317;
    for (std::int64_t s = 1; s < steps; ++s) {
      const double before = schedule_factor(c, s - 1, steps), now = schedule_factor(c, s, steps);
      if (s < c.warmup) {
        EXPECT_GT(now, before);
      } else {
        EXPECT_LE(now, before);
      }
      EXPECT_GE(now, c.floor * (s < c.warmup ? 0 : 1));
      EXPECT_LE(now, 1);
    }
  }
}

// modded-nanogpt: 5,100 steps, of which the last 1,450 cool down, lr(step) = (5100 - step) / 1450.
TEST(Schedule, TrapezoidOfTheSpeedrun) {
  const std::int64_t steps = 5100, cooldown = 1450;
  const ScheduleConfig c{ScheduleShape::trapezoid, 0, 1450.0 / 5100, 0, false};
  for (std::int64_t s = 0; s < steps; ++s)
    EXPECT_EQ(schedule_factor(c, s, steps),
              s < steps - cooldown ? 1.0 : static_cast<double>(steps - s) / static_cast<double>(cooldown));
}

// Track 3: w = (1 - step / N) / 0.7 in the last 70%.
TEST(Schedule, TrapezoidOfTrack3) {
  const std::int64_t steps = 3250;
  const ScheduleConfig c{ScheduleShape::trapezoid, 0, 0.7, 0, false};
  for (std::int64_t s = 0; s < steps; ++s) {
    const double left = 1 - static_cast<double>(s) / static_cast<double>(steps);
    EXPECT_NEAR(schedule_factor(c, s, steps), std::min(1.0, left / 0.7), 4 * kUlp);
  }
}

TEST(Schedule, CosineAndLinearMeetHalfWay) {
  for (const auto shape : {ScheduleShape::cosine, ScheduleShape::linear}) {
    const ScheduleConfig c{shape, 20, 0, 0.1, true};
    EXPECT_NEAR(schedule_factor(c, 60, 101), 0.55, 4 * kUlp);  // between step 20 and step 100
  }
  const ScheduleConfig cosine{ScheduleShape::cosine, 0, 0, 0, true};
  EXPECT_NEAR(schedule_factor(cosine, 25, 101), 0.5 * (1 + std::sqrt(0.5)), 4 * kUlp);
}

TEST(Schedule, TinyRuns) {
  EXPECT_EQ(schedule_factor({ScheduleShape::trapezoid, 0, 0.3, 0, true}, 0, 1), 1);
  EXPECT_EQ(schedule_factor({ScheduleShape::trapezoid, 0, 0, 0, true}, 9, 10), 1) << "no cool-down asked for";
  EXPECT_EQ(schedule_factor({ScheduleShape::cosine, 5, 0, 0, true}, 2, 3), 0.6) << "ends within its warm-up";
  // Warm-up and cool-down overlap: a triangle.
  const ScheduleConfig c{ScheduleShape::trapezoid, 6, 1, 0, true};
  EXPECT_EQ(schedule_factor(c, 0, 10), 1.0 / 6);
  EXPECT_EQ(schedule_factor(c, 5, 10), 0.4);
  EXPECT_EQ(schedule_factor(c, 9, 10), 0);
}

TEST(Schedule, MomentumWarmup) {
  const MomentumCooldown never;
  for (const std::int64_t run : {0, 200000}) {
    EXPECT_EQ(momentum_at({0.85, 0}, never, 0.95, 0, run), 0.95);
    EXPECT_EQ(momentum_at({0.85, 300}, never, 0.95, 0, run), 0.85);
    EXPECT_NEAR(momentum_at({0.85, 300}, never, 0.95, 150, run), 0.90, kUlp);
    EXPECT_EQ(momentum_at({0.85, 300}, never, 0.95, 300, run), 0.95);
    EXPECT_EQ(momentum_at({0.85, 300}, never, 0.95, 100000, run), 0.95);
  }
}

// The speedrun's: from 0.85 in 300 steps, and back over the last 50 of 1,285.
TEST(Schedule, MomentumCooldown) {
  const MomentumWarmup warmup{0.85, 300};
  const MomentumCooldown cooldown{0.85, 50};
  const std::int64_t run = 1285;
  EXPECT_NEAR(momentum_at(warmup, cooldown, 0.95, 30, run), 0.86, kUlp);
  for (std::int64_t s = 300; s <= run - 50; ++s) EXPECT_EQ(momentum_at(warmup, cooldown, 0.95, s, run), 0.95);
  for (std::int64_t s = run - 49; s < run; ++s)
    EXPECT_NEAR(momentum_at(warmup, cooldown, 0.95, s, run),
                0.95 - 0.1 * static_cast<double>(s - (run - 50)) / 50, 2 * kUlp);
  EXPECT_NEAR(momentum_at(warmup, cooldown, 0.95, run, run), 0.85, kUlp);
  EXPECT_EQ(momentum_at(warmup, cooldown, 0.95, 1280, 0), 0.95) << "a run of unknown length";
  // Both at once: neither jumps.
  for (std::int64_t s = 1; s < 40; ++s)
    EXPECT_LT(std::abs(momentum_at({0.5, 30}, {0.4, 20}, 0.9, s, 40) -
                       momentum_at({0.5, 30}, {0.4, 20}, 0.9, s - 1, 40)),
              0.03);
}

}  // namespace
}  // namespace spectrain
