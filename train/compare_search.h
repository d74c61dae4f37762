#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "train/compare_plan.h"

namespace spectrain {

// Where a variant's search stands, given the losses that are known. Nothing is remembered between calls: a
// comparison that was interrupted finds its place again from its finished runs alone.
struct Search {
  std::vector<GridPoint> points;   // that the search has asked for so far, in that order, no point twice
  std::vector<GridPoint> missing;  // of these, whose losses it needs next; empty: it is over
  GridPoint best;                  // when it is over
  bool at_edge = false;            // the best is at an end of an axis that may not or cannot grow further
  std::vector<GridExtension> extensions;
};

// The mean final validation loss of a point; +inf when a run of it diverged, empty while it is not known.
using PointLoss = std::function<std::optional<double>(const GridPoint&)>;
// Whether a configuration may have these values: an axis does not grow beyond a key's range.
using PointAllowed = std::function<bool(const GridPoint&)>;

// The best point of the grid. One axis after the other in the plan's order, the others at the best that is
// known of them (at first the middle of their values), or all points at once with PlanVariant::full_search.
// While the best value of an axis is its first or last, the axis grows by one value there, at most `extend`
// times. Of equal losses the smaller value is the better one. A variant without axes has one point, the empty
// one, and nothing to search.
Search search(const PlanVariant& variant, int extend, const PointLoss& loss, const PointAllowed& allowed);

}  // namespace spectrain
