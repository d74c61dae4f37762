#include "train/compare_search.h"

#include <algorithm>

namespace spectrain {
namespace {

class Walk {
 public:
  Walk(const PlanVariant& variant, int extend, const PointLoss& loss, const PointAllowed& allowed,
       Search& result)
      : variant_(variant), extend_(extend), loss_(loss), allowed_(allowed), result_(result) {
    for (const PlanAxis& axis : variant.axes) {
      current_.push_back(axis.values[(axis.values.size() - 1) / 2]);
      at_edge_.push_back(false);
    }
  }

  // All combinations of the values of these axes. False when losses are missing.
  bool explore(const std::vector<std::size_t>& axes) {
    std::vector<std::vector<double>> values;
    for (const double v : current_) values.push_back({v});
    for (const std::size_t a : axes) values[a] = variant_.axes[a].values;
    std::vector<int> ups(values.size()), downs(values.size());
    while (true) {
      if (!find_best(values)) return false;
      bool grown = false;
      for (const std::size_t a : axes) grown = (!grown && grow(a, values[a], ups[a], downs[a])) || grown;
      if (!grown) return true;
    }
  }

  GridPoint best() const { return point_of(current_); }
  bool at_edge() const { return std::find(at_edge_.begin(), at_edge_.end(), true) != at_edge_.end(); }

 private:
  GridPoint point_of(const std::vector<double>& values) const {
    GridPoint point;
    for (std::size_t a = 0; a < values.size(); ++a) point.emplace_back(variant_.axes[a].name, values[a]);
    return point;
  }

  std::optional<double> ask(const GridPoint& point) {
    if (std::find(result_.points.begin(), result_.points.end(), point) == result_.points.end())
      result_.points.push_back(point);
    const std::optional<double> loss = loss_(point);
    if (!loss) result_.missing.push_back(point);
    return loss;
  }

  // Sets current_ to the best combination. False when losses are missing.
  bool find_best(const std::vector<std::vector<double>>& values) {
    std::vector<std::size_t> at(values.size(), 0);
    std::vector<double> best;
    double least = 0;
    while (true) {
      std::vector<double> here;
      for (std::size_t a = 0; a < at.size(); ++a) here.push_back(values[a][at[a]]);
      const std::optional<double> loss = ask(point_of(here));
      if (loss && (best.empty() || *loss < least)) {
        best = here;
        least = *loss;
      }
      // The next combination, the last axis fastest.
      std::size_t a = at.size();
      while (a > 0 && ++at[a - 1] == values[a - 1].size()) at[--a] = 0;
      if (a == 0) break;
    }
    if (!result_.missing.empty()) return false;
    current_ = best;
    return true;
  }

  // One more value at the end where the best is.
  bool grow(std::size_t a, std::vector<double>& values, int& ups, int& downs) {
    const PlanAxis& axis = variant_.axes[a];
    const bool top = current_[a] == values.back(), bottom = current_[a] == values.front();
    at_edge_[a] = false;
    if (top == bottom) return false;                  // inside, or a single value, which is no search
    if (bottom && values.front() == 0) return false;  // off is not an edge: there is nothing below it
    at_edge_[a] = true;
    if (ups + downs >= extend_ || (top ? axis.step_up : axis.step_down) <= 1) return false;
    const double value = beyond(axis, top, (top ? ups : downs) + 1);
    std::vector<double> farther = current_;
    farther[a] = value;
    if (!allowed_(point_of(farther))) return false;
    ++(top ? ups : downs);
    values.insert(top ? values.end() : values.begin(), value);
    result_.extensions.push_back({variant_.name, axis.name, value, top});
    return true;
  }

  const PlanVariant& variant_;
  int extend_;
  const PointLoss& loss_;
  const PointAllowed& allowed_;
  Search& result_;
  std::vector<double> current_;
  std::vector<bool> at_edge_;
};

}  // namespace

Search search(const PlanVariant& variant, int extend, const PointLoss& loss, const PointAllowed& allowed) {
  Search result;
  if (variant.axes.empty()) {
    result.points.emplace_back();
    return result;
  }
  Walk walk(variant, extend, loss, allowed, result);
  std::vector<std::vector<std::size_t>> rounds;
  for (std::size_t a = 0; a < variant.axes.size(); ++a) {
    if (rounds.empty() || !variant.full_search) rounds.emplace_back();
    rounds.back().push_back(a);
  }
  for (const std::vector<std::size_t>& axes : rounds)
    if (!walk.explore(axes)) return result;
  result.best = walk.best();
  result.at_edge = walk.at_edge();
  return result;
}

}  // namespace spectrain
