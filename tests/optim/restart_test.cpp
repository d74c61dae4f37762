#include <gtest/gtest.h>

#include <limits>

#include "tests/optim/problem.h"

// An optimizer that is restarted is a new one, for every rule: what it did before leaves no trace, even where
// the gradient of the first step is not finite, so that the run begins with its second.

namespace spectrain {
namespace {

struct End {
  std::vector<double> weight;
  std::vector<std::vector<double>> state;
  bool operator==(const End&) const = default;
};

void steps(Problem& p, Optimizer& optimizer, std::uint64_t seed, bool first_is_lost) {
  p.set_value(0, combined(0.3, gaussian(24, 16, seed), 0, gaussian(24, 16, seed)));
  for (std::int64_t step = 0; step < 4; ++step) {
    Matrix g = gaussian(24, 16, seed + 10 + static_cast<std::uint64_t>(step));
    if (first_is_lost && step == 0) g.a[5] = std::numeric_limits<double>::infinity();
    p.set_gradient(0, g);
    if (optimizer.wants_sampled_gradient(step) && !(first_is_lost && step == 0))
      optimizer.observe_sampled(step, 1, 64);
    EXPECT_EQ(optimizer.step(step, 1).finite, !(first_is_lost && step == 0));
  }
}

End end_of(const GroupConfig& group, bool restarts, bool first_is_lost) {
  Problem p("cpu");
  p.add("w", {24, 16}, Role::hidden);
  OptimizerConfig config;
  config.groups = {group};
  config.steps = 4;
  Optimizer optimizer(*p.backend, p.views(), config);
  if (restarts) {
    steps(p, optimizer, 1000, false);
    optimizer.restart();
  }
  steps(p, optimizer, 1, first_is_lost);
  End end{p.value(0).a, {}};
  for (const StateTensor& s : optimizer.state()) end.state.push_back(host(*p.backend, s.tensor));
  return end;
}

TEST(Restart, LeavesNothingOfWhatWasBefore) {
  std::vector<GroupConfig> groups;
  for (const RuleOptions& rule : all_rules()) groups.push_back({{Role::hidden}, rule});
  GroupConfig hyperball{{Role::hidden}, MuonOptions{}}, looks{{Role::hidden}, AdamWOptions{}}, halves = looks;
  hyperball.finish.constraint = Constraint::hyperball;
  looks.look_ahead.strength = 0.3;
  halves.finish.storage = StoredAs::bf16;
  groups.insert(groups.end(), {hyperball, looks, halves});
  for (const GroupConfig& group : groups)
    for (const bool lost : {false, true}) {
      SCOPED_TRACE(group.rule.info().name);
      EXPECT_TRUE(end_of(group, false, lost) == end_of(group, true, lost)) << (lost ? "first step lost" : "");
    }
}

}  // namespace
}  // namespace spectrain
