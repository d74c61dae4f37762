#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/compare_plan.h"
#include "train/compare_search.h"
#include "train/compare_store.h"
#include "train/config.h"

namespace spectrain {

// One run that a plan asks for. Two variants may ask for the same one: their ids are equal then.
struct PlannedRun {
  std::size_t variant = 0;  // of the plan
  GridPoint point;
  std::uint64_t seed = 0;
  double horizon = 1;  // its steps are this times the plan's
  RunConfig config;
  std::string id;
};

// A plan beside what is there of it: which runs it asks for, which of them are over, and which are next.
// Everything follows from the plan and the markers on the disk.
class CompareState {
 public:
  // Reads the configurations of all variants over their grids. Throws RequestError where one is refused, or
  // where two must not be compared.
  explicit CompareState(ComparePlan plan);

  const ComparePlan& plan() const { return plan_; }
  const RunConfig& base() const { return base_; }
  CompareStore& store() { return store_; }

  struct View {
    std::vector<Search> searches;            // by variant
    std::vector<const PlannedRun*> asked;    // by all variants so far, each run once per variant
    std::vector<const PlannedRun*> missing;  // of these, what is not over, each id once
    std::size_t expected = 0;                // runs of the whole plan, if no axis grows any more
  };
  View look();

  // Of a run that look() gave; null while it is not over.
  const RunOutcome* outcome(const PlannedRun& run) const;
  void remember(const PlannedRun& run, const RunOutcome& outcome);

  // The fingerprint of the data as they are now. Throws RequestError when finished runs have read others.
  std::string check_data();

 private:
  const PlannedRun& planned(std::size_t variant, const GridPoint& point, std::uint64_t seed,
                            double horizon = 1);
  bool allowed(std::size_t variant, const GridPoint& point) const;
  std::optional<double> sweep_loss(std::size_t variant, const GridPoint& point);
  std::size_t expected_runs(std::size_t variant, const Search& search) const;
  void check_variants() const;

  ComparePlan plan_;
  RunConfig base_;
  CompareStore store_;
  std::map<std::string, std::unique_ptr<PlannedRun>> runs_;  // by variant, point, seed and horizon
  std::map<std::string, RunOutcome> outcomes_;               // by id
};

}  // namespace spectrain
