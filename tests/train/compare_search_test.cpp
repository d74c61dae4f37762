#include "train/compare_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

// The search on losses that are formulas: what it asks for, where it ends, and that a search that is cut into
// pieces ends in the same place.

namespace spectrain {
namespace {

using testing::ElementsAre;

PlanAxis axis(const std::string& name, std::vector<double> values, double step) {
  PlanAxis a;
  a.name = name;
  a.keys = {{name, 1}};
  a.values = std::move(values);
  a.step_up = a.step_down = step;
  return a;
}

using Loss = std::function<double(const GridPoint&)>;

bool anything(const GridPoint&) { return true; }

Search all_known(const PlanVariant& variant, int extend, const Loss& loss) {
  return search(variant, extend, loss, anything);
}

// A bowl in log lr, the least at 2^exponent.
Loss bowl(double exponent) {
  return [exponent](const GridPoint& p) { return 3 + std::pow(std::log2(p[0].second) - exponent, 2); };
}

std::vector<double> values_of(const std::vector<GridPoint>& points, std::size_t axis_number = 0) {
  std::vector<double> out;
  for (const GridPoint& p : points) out.push_back(p[axis_number].second);
  return out;
}

PlanVariant one_axis() {
  PlanVariant v;
  v.name = "v";
  v.axes = {axis("lr", {1, 2, 4}, 2)};
  return v;
}

TEST(CompareSearch, InsideTheGridNothingGrows) {
  const Search s = all_known(one_axis(), 2, bowl(1.1));
  EXPECT_THAT(values_of(s.points), ElementsAre(1, 2, 4));
  EXPECT_EQ(s.best, (GridPoint{{"lr", 2}}));
  EXPECT_TRUE(s.extensions.empty());
  EXPECT_FALSE(s.at_edge);
}

TEST(CompareSearch, GrowsAtTheEdgeUntilTheBestIsInside) {
  const Search s = all_known(one_axis(), 5, bowl(4));
  EXPECT_THAT(values_of(s.points), ElementsAre(1, 2, 4, 8, 16, 32));
  EXPECT_EQ(s.best[0].second, 16);
  ASSERT_EQ(s.extensions.size(), 3u);
  EXPECT_EQ(s.extensions[0].value, 8);
  EXPECT_TRUE(s.extensions[0].upward);
  EXPECT_EQ(s.extensions[2].variant, "v");
  EXPECT_EQ(s.extensions[2].axis, "lr");
  EXPECT_FALSE(s.at_edge);

  const Search down = all_known(one_axis(), 5, bowl(-1.2));
  EXPECT_EQ(down.best[0].second, 0.5);
  EXPECT_THAT(values_of(down.points), ElementsAre(1, 2, 4, 0.5, 0.25));
  EXPECT_FALSE(down.extensions[1].upward);
}

TEST(CompareSearch, GrowsNoMoreThanAllowed) {
  const Search s = all_known(one_axis(), 2, bowl(10));
  EXPECT_EQ(s.best[0].second, 16);
  EXPECT_EQ(s.extensions.size(), 2u);
  EXPECT_TRUE(s.at_edge);
  EXPECT_TRUE(all_known(one_axis(), 0, bowl(10)).at_edge);

  const auto below_ten = [](const GridPoint& p) { return p[0].second < 10; };
  const Search bounded = search(one_axis(), 5, bowl(10), below_ten);
  EXPECT_EQ(bounded.best[0].second, 8);
  EXPECT_EQ(bounded.extensions.size(), 1u);
  EXPECT_TRUE(bounded.at_edge);
}

TEST(CompareSearch, WhatDivergesIsTheWorst) {
  const double inf = std::numeric_limits<double>::infinity();
  const Search s = all_known(one_axis(), 2, [&](const GridPoint& p) { return p[0].second >= 2 ? inf : 5; });
  EXPECT_EQ(s.best[0].second, 0.25) << "of 1, 0.5 and 0.25, where the loss is 5";
  // All of them: the search goes down, where a learning rate may be small enough.
  const Search all = all_known(one_axis(), 2, [&](const GridPoint&) { return inf; });
  EXPECT_THAT(values_of(all.points), ElementsAre(1, 2, 4, 0.5, 0.25));
  EXPECT_TRUE(all.missing.empty());
}

TEST(CompareSearch, ZeroIsNoEdgeAndASingleValueIsNoSearch) {
  PlanVariant v = one_axis();
  v.axes = {axis("weight_decay", {0, 0.1}, 0)};
  const Search zero = all_known(v, 2, [](const GridPoint& p) { return p[0].second; });
  EXPECT_EQ(zero.best[0].second, 0);
  EXPECT_FALSE(zero.at_edge);
  v.axes = {axis("lr", {0.1}, 0)};
  EXPECT_FALSE(all_known(v, 2, bowl(10)).at_edge);
  v.axes.clear();
  const Search none = all_known(v, 2, bowl(1));
  EXPECT_TRUE(none.missing.empty());
  EXPECT_TRUE(none.best.empty());
}

// Depends on both axes together, so that their order and the middle matter.
double tilted(const GridPoint& p) {
  const double x = std::log2(p[0].second), y = std::log2(p[1].second);
  return std::pow(x + y - 3, 2) + 0.1 * std::pow(y - 2, 2);
}

TEST(CompareSearch, OneAxisAfterTheOther) {
  PlanVariant v;
  v.axes = {axis("a", {1, 2, 4}, 2), axis("b", {1, 2, 4}, 2)};
  const Search s = all_known(v, 0, tilted);
  // a at the middle b = 2: x = 2 is best. Then b at a = 4.
  EXPECT_EQ(s.points, (std::vector<GridPoint>{{{"a", 1}, {"b", 2}},
                                              {{"a", 2}, {"b", 2}},
                                              {{"a", 4}, {"b", 2}},
                                              {{"a", 4}, {"b", 1}},
                                              {{"a", 4}, {"b", 4}}}));
  EXPECT_EQ(s.best, (GridPoint{{"a", 4}, {"b", 2}}));
  EXPECT_TRUE(s.at_edge) << "a's";

  v.full_search = true;
  const Search full = all_known(v, 0, tilted);
  EXPECT_EQ(full.points.size(), 9u);
  EXPECT_EQ(full.best, (GridPoint{{"a", 2}, {"b", 4}}));
  const Search grown = all_known(v, 1, tilted);
  EXPECT_EQ(grown.points.size(), 12u) << "one more b for each a";
  EXPECT_EQ(grown.best, (GridPoint{{"a", 2}, {"b", 4}}));
  EXPECT_FALSE(grown.at_edge);
}

// A comparison knows a few losses more each time, in any order.
TEST(CompareSearch, EndsInTheSamePlaceWhateverIsKnownWhen) {
  PlanVariant v;
  v.axes = {axis("a", {1, 2, 4}, 2), axis("b", {1, 2}, 2)};
  for (const bool full : {false, true}) {
    v.full_search = full;
    const Search whole = all_known(v, 2, tilted);
    std::set<GridPoint> known;
    for (int round = 0; round < 100; ++round) {
      const Search s = search(
          v, 2,
          [&](const GridPoint& p) {
            return known.contains(p) ? std::optional<double>(tilted(p)) : std::nullopt;
          },
          anything);
      if (s.missing.empty()) {
        EXPECT_EQ(s.best, whole.best);
        EXPECT_EQ(s.points, whole.points);
        EXPECT_EQ(s.extensions.size(), whole.extensions.size());
        EXPECT_EQ(known.size(), whole.points.size()) << "no loss was asked for that was not needed";
        break;
      }
      known.insert(s.missing[static_cast<std::size_t>(round) * 7 % s.missing.size()]);
      ASSERT_LT(round, 99);
    }
  }
}

}  // namespace
}  // namespace spectrain
