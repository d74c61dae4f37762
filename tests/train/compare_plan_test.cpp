#include "train/compare_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/error.h"
#include "tests/train/scratch_directory.h"

// The plan's file: what it may say, and how it says what it must not.

namespace spectrain {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pair;

class PlanFile : public testing::Test {
 protected:
  PlanFile() { put_contents(scratch_ / "base.yaml", "run: {name: base}\n"); }

  std::string path() const { return scratch_ / "some.yaml"; }
  ComparePlan read(const std::string& text) {
    put_contents(path(), text);
    return read_compare_plan(path());
  }
  std::string refusal(const std::string& text) {
    return message_of<RequestError>([&] { read(text); });
  }

  ScratchDirectory scratch_;
};

TEST_F(PlanFile, EverythingItMaySay) {
  const ComparePlan plan = read(R"(base: base.yaml
name: small
directory: out
set: {train.steps: 200, model: {layers: 2}}
baseline: adamw
target: 3.5
seeds: {sweep: [1, 2], final: [3, 4, 5]}
horizons: [0.5, 2]
extend: 3
significance: {rule: track3, sigma: 0.0013, threshold: 0.005}
parallel: 2
save: true
tensorboard: true
variants:
  - name: muon
    set: {optimizer.0.rule: muon}
    grid:
      lr: {keys: [optimizer.0.lr], from: 0.005, to: 0.04, count: 4}
      weight_decay: {factors: {optimizer.0.weight_decay: 1, optimizer.1.weight_decay: 10}, values: [0.1, 0, 0.4]}
    search: full
  - name: adamw
)");
  EXPECT_EQ(plan.name, "small");
  EXPECT_EQ(plan.root(), "out/small");
  EXPECT_EQ(plan.base, scratch_ / "base.yaml");
  ASSERT_EQ(plan.settings.size(), 2u);
  EXPECT_EQ(plan.settings[0].key, "train.steps");
  EXPECT_EQ(plan.baseline, "adamw");
  EXPECT_EQ(plan.target, 3.5);
  EXPECT_THAT(plan.sweep_seeds, ElementsAre(1, 2));
  EXPECT_THAT(plan.final_seeds, ElementsAre(3, 4, 5));
  EXPECT_THAT(plan.horizons, ElementsAre(0.5, 2));
  EXPECT_EQ(plan.extend, 3);
  EXPECT_EQ(plan.rule, SignificanceRule::track3);
  EXPECT_EQ(plan.sigma, 0.0013);
  EXPECT_EQ(plan.threshold, 0.005);
  EXPECT_EQ(plan.parallel, 2);
  EXPECT_TRUE(plan.save);
  EXPECT_TRUE(plan.tensorboard);
  ASSERT_EQ(plan.variants.size(), 2u);
  EXPECT_TRUE(plan.variants[0].full_search);
  const std::vector<PlanAxis>& axes = plan.variants[0].axes;
  ASSERT_EQ(axes.size(), 2u);
  EXPECT_EQ(axes[0].name, "lr");
  EXPECT_THAT(axes[0].keys, ElementsAre(Pair("optimizer.0.lr", 1)));
  EXPECT_THAT(axes[0].values, ElementsAre(0.005, 0.01, 0.02, 0.04)) << "equal ratios, and no digits of noise";
  EXPECT_EQ(beyond(axes[0], true, 1), 0.08);
  EXPECT_EQ(beyond(axes[0], false, 2), 0.00125);
  EXPECT_THAT(axes[1].keys,
              ElementsAre(Pair("optimizer.0.weight_decay", 1), Pair("optimizer.1.weight_decay", 10)));
  EXPECT_THAT(axes[1].values, ElementsAre(0, 0.1, 0.4));
  EXPECT_EQ(axes[1].step_down, 0) << "nothing is below 0";
  EXPECT_EQ(axes[1].step_up, 4);
}

TEST_F(PlanFile, Defaults) {
  const ComparePlan plan = read("base: base.yaml\nvariants: [{name: a}, {name: b}]\n");
  EXPECT_EQ(plan.name, "some");
  EXPECT_EQ(plan.root(), "runs/compare/some");
  EXPECT_EQ(plan.baseline, "a");
  EXPECT_THAT(plan.final_seeds, ElementsAre(1));
  EXPECT_FALSE(plan.save);
  EXPECT_EQ(plan.parallel, 1);
  EXPECT_THAT(read("base: base.yaml\nseeds: {sweep: [4, 5]}\nvariants: [{name: a}]\n").final_seeds,
              ElementsAre(4, 5));
}

struct Refused {
  const char* lines;  // after "base: base.yaml"
  const char* place;
  const char* says;
};

TEST_F(PlanFile, RefusesWithPlaceAndWayOut) {
  const Refused cases[] = {
      {"varians: [{name: a}]", ":2:", "unknown key \"varians\"; did you mean \"variants\"?"},
      {"variants: [{name: a}]\ntarget: low", ":3:", "target must be a number, not \"low\""},
      {"variants: [{name: a}]\ntarget: -1", ":3:", ">= 0"},
      {"variants:\n  - name: a\n    sets: {train.steps: 1}",
       ":4:", "unknown key \"variants.0.sets\"; did you mean \"set\"?"},
      {"variants:\n  - {name: a}\n  - {name: a}", ":4:", "second variant"},
      {"variants:\n  - {set: {train.steps: 1}}", ":3:", "variants.0.name is missing"},
      {"variants: [{name: a/b}]", ":2:", "letters, digits"},
      {"variants: []", ":2:", "at least one element"},
      {"name: x", "", "variants is missing"},
      {"baseline: adam\nvariants: [{name: adamw}]", ":2:", "no variant; did you mean \"adamw\"?"},
      {"seeds: {sweep: [1, 1]}\nvariants: [{name: a}]", ":2:", "names 1 twice"},
      {"seeds: {sweep: [-1]}\nvariants: [{name: a}]", ":2:", "in [0,"},
      {"horizons: [1]\nvariants: [{name: a}]", ":2:", "not 1"},
      {"parallel: 1.5\nvariants: [{name: a}]", ":2:", "whole number"},
      {"save: yes\nvariants: [{name: a}]", ":2:", "true or false"},
      {"significance: {rule: welsh}\nvariants: [{name: a}]", ":2:", "did you mean \"welch\"?"},
      {"set: {run.seed: 2}\nvariants: [{name: a}]", ":2:", "run.seed cannot be set"},
      {"variants: [{name: a, grid: {lr: {values: [1, 2]}}}]", ":2:", "variants.0.grid.lr.keys is missing"},
      {"variants: [{name: a, grid: {lr: {keys: k, from: 1, to: 2}}}]",
       ":2:", "all three of from, to and count"},
      {"variants: [{name: a, grid: {lr: {keys: k, from: 2, to: 1, count: 3}}}]", ":2:", "0 < from < to"},
      {"variants: [{name: a, grid: {lr: {keys: k, from: 1, to: 2, count: 1}}}]", ":2:", "count is 1"},
      {"variants: [{name: a, grid: {lr: {keys: k, values: [1, 1.0]}}}]", ":2:", "a value twice"},
      {"variants: [{name: a, grid: {lr: {keys: [k, k], values: [1]}}}]", ":2:", "names k twice"},
      {"variants: [{name: a, grid: {lr: {keys: k}}}]", ":2:", "needs either values"},
      {"variants: [{name: a, search: random}]", ":2:", "one of coordinate, full"},
      {"variants: [{name: a}]\nvariants: [{name: b}]", ":3:", "given twice"},
  };
  for (const Refused& c : cases) {
    SCOPED_TRACE(c.lines);
    const std::string message = refusal(std::string("base: base.yaml\n") + c.lines + "\n");
    EXPECT_THAT(message, HasSubstr(path() + c.place));
    EXPECT_THAT(message, HasSubstr(c.says));
  }
  EXPECT_THAT(refusal("base: other.yaml\nvariants: [{name: a}]\n"),
              HasSubstr(":1: base \"other.yaml\" names no file"));
  EXPECT_THAT(refusal("variants: [{name: a}]\n"), HasSubstr("base is missing"));
}

}  // namespace
}  // namespace spectrain
