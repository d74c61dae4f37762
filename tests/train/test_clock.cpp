#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "train/clock.h"

namespace spectrain {
namespace {

TEST(TrainingClock, CountsOnlyWhatIsBetweenStartAndStop) {
  double now = 100;
  TrainingClock clock(7, [&] { return now; });
  EXPECT_EQ(clock.seconds(), 7);
  clock.start();
  now += 2;
  EXPECT_EQ(clock.seconds(), 9);
  clock.stop();
  now += 1000;  // validation
  EXPECT_EQ(clock.seconds(), 9);
  clock.start();
  now += 0.5;
  clock.stop();
  EXPECT_EQ(clock.seconds(), 9.5);
  EXPECT_THROW(clock.stop(), std::logic_error);
  clock.start();
  EXPECT_THROW(clock.start(), std::logic_error);
}

TEST(FirstCrossing, InterpolatesBetweenTheValidationsAround) {
  const std::vector<ValidationPoint> points = {
      {0, 0, 0, 10}, {10, 1000, 5, 4}, {20, 2000, 11, 3}, {30, 3000, 17, 3.5}, {40, 4000, 23, 2}};
  const auto at = first_crossing(points, 3.25);
  ASSERT_TRUE(at);
  EXPECT_DOUBLE_EQ(at->step, 17.5);
  EXPECT_DOUBLE_EQ(at->tokens, 1750);
  EXPECT_DOUBLE_EQ(at->seconds, 9.5);
  EXPECT_EQ(at->loss, 3.25);
  EXPECT_EQ(first_crossing(points, 3)->tokens, 2000);  // exactly there
  EXPECT_EQ(first_crossing(points, 12)->tokens, 0);    // before it began
  EXPECT_FALSE(first_crossing(points, 1.9));
  EXPECT_FALSE(first_crossing({}, 1.9));
}

TEST(FirstCrossing, ALossThatIsNotANumberReachesNothing) {
  const std::vector<ValidationPoint> points = {{0, 0, 0, 5}, {1, 10, 1, NAN}, {2, 20, 2, 3}};
  EXPECT_EQ(first_crossing(points, 4)->tokens, 20);
}

}  // namespace
}  // namespace spectrain
