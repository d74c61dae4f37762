#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <string>

#include "tests/train/scratch_directory.h"
#include "train/lab/classifier.h"
#include "train/lab/configured_experiment.h"
#include "train/lab/convnets.h"

// What the experiments on networks are made of, and the smallest of them.

namespace spectrain::lab {
namespace {

TEST(LabRules, AreSetByTheirKeys) {
  const GroupConfig g =
      group({Role::hidden}, "muon", {{"lr", "0.5"}, {"nesterov", "false"}, {"newton_schulz.steps", "3"}});
  EXPECT_EQ(g.rule.info().name, "muon");
  EXPECT_EQ(g.rule, rule("muon", {{"newton_schulz.steps", "3"}, {"nesterov", "false"}, {"lr", "0.5"}}));
  EXPECT_FALSE(g.rule == rule("muon", {{"lr", "0.5"}}));
  EXPECT_EQ(rule("adam", {{"betas", "0.5 0.75"}}), rule("adam", {{"betas", "0.5 0.75"}}));
  EXPECT_THROW(rule("muon", {{"rate", "1"}}), std::logic_error);
  EXPECT_THROW(rule("nuon", {}), std::logic_error);
  EXPECT_THROW(rule("muon", {{"shape_scale", "square"}}), std::logic_error);
}

// w = w - lr d/dw 1/2 (3 w - 1)^2 from w = 1.
TEST(LabNetwork, TakesTheStepOnPaper) {
  const auto cpu = make_cpu_backend();
  OptimizerConfig config;
  config.groups = {group({Role::hidden}, "sgd", {{"lr", "0.125"}})};
  const auto record = [](Tape& t) {
    const Value w = t.parameter("w", {1, 1}, Role::hidden, Initializer::ones());
    return t.squared_error(t.linear(t.real_input("x", {1, 1}), w), t.real_input("y", {1, 1}));
  };
  Network net(*cpu, record, config, 1, 1);
  const std::vector<float> x{3}, y{1};
  net.training().set_input("x", std::span<const float>(x));
  net.training().set_input("y", std::span<const float>(y));
  EXPECT_EQ(net.step(), 2);
  EXPECT_EQ(net.gradient("w"), std::vector<double>{6});
  EXPECT_EQ(net.get("w"), std::vector<double>{0.25});
  net.set("w", {1});
  EXPECT_EQ(net.step(0.5), 2);
  EXPECT_EQ(net.get("w"), std::vector<double>{0.625});
  EXPECT_THROW(net.get("v"), std::logic_error);
  EXPECT_THROW(net.set("w", {1, 2}), std::logic_error);
}

TEST(LabData, ShufflingIsAPermutationOfItsKey) {
  const std::vector<std::int64_t> order = shuffled(1000, {7, 3});
  std::vector<std::int64_t> sorted = order, expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(sorted, expected);
  EXPECT_EQ(order, shuffled(1000, {7, 3}));
  EXPECT_NE(order, shuffled(1000, {8, 3}));
  std::int64_t stayed = 0;
  for (std::int64_t i = 0; i < 1000; ++i) stayed += order[static_cast<std::size_t>(i)] == i;
  EXPECT_LT(stayed, 10);
}

TEST(LabData, PicturesAreFlippedAndMoved) {
  Examples e;
  e.width = 9;
  e.x = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  e.label = {0};
  std::vector<float> out(18);
  const std::vector<std::int64_t> rows{0, 0};
  copy_flipped(e, rows, std::vector<std::uint8_t>{0, 1}, 3, 1, out);
  EXPECT_EQ(out, (std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9, 3, 2, 1, 6, 5, 4, 9, 8, 7}));
  std::vector<float> moved(9);
  copy_shifted(e.x, 3, 1, 1, 0, moved);
  EXPECT_EQ(moved, (std::vector<float>{2, 3, 2, 5, 6, 5, 8, 9, 8}));
  copy_shifted(e.x, 3, 1, 0, -2, moved);
  EXPECT_EQ(moved, (std::vector<float>{7, 8, 9, 4, 5, 6, 1, 2, 3}));
}

// Two clouds that a line parts: every rule finds it, and counts what it sorts.
TEST(LabClassifier, LearnsWhatCanBeLearned) {
  const auto cpu = make_cpu_backend();
  Examples e;
  e.width = 8;
  for (int i = 0; i < 150; ++i) {
    e.label.push_back(i % 3);
    for (int k = 0; k < 8; ++k)
      e.x.push_back(normal_at({1, 5}, static_cast<std::uint64_t>(i * 8 + k), k == i % 3 ? 4.0f : 0.0f, 0.5f));
  }
  for (const bool norm : {false, true}) {
    OptimizerConfig rules;
    rules.groups = {group({Role::hidden, Role::head}, "muon", {{"lr", "0.05"}}),
                    group({Role::bias}, "adam", {})};
    Classifier net(
        *cpu, {64, 8, 3, 0.1, false},
        [&](Tape& t, Value x) {
          return perceptron(t, x, {{8, 16, 16, 3}, norm, true});
        },
        rules, 1);
    const double before = net.mean_loss(e);
    for (int step = 0; step < 40; ++step) {
      const std::vector<std::int64_t> order = shuffled(150, {1, static_cast<std::uint64_t>(step)});
      net.step(e, std::span(order).first(64), 1);
    }
    EXPECT_LT(net.mean_loss(e), before);
    EXPECT_EQ(net.accuracy(e), 1);
  }
}

class NetworkExperiments : public testing::Test {
 protected:
  std::map<std::string, Verdict> verdicts(const std::string& id, const std::string& options) {
    put_contents(dir_ / "changed.yaml",
                 "base: " SPECTRAIN_SOURCE_DIR "/configs/lab/" + id + ".yaml\nid: " + id + "\n" + options);
    const ConfiguredExperiment e = read_experiment(dir_ / "changed.yaml", false);
    const Surroundings s{*backend_, false, 1, "", [](const std::string&) {}};
    std::map<std::string, Verdict> result;
    for (const ClaimResult& c : e.experiment->run(s).claims) {
      EXPECT_FALSE(c.checks.empty());
      result[c.claim.id] = c.verdict();
    }
    return result;
  }
  ScratchDirectory dir_;
  std::unique_ptr<Backend> backend_ = make_cpu_backend();
};

TEST_F(NetworkExperiments, TheRaceOfModes) {
  const std::string small = "measured: 2\nlr: 0.002\nspectral_steps: 1500\n";
  const auto v = verdicts("e1", small + "descent_steps: 950\n");
  EXPECT_EQ(v.at("e1.growth"), Verdict::holds);
  EXPECT_EQ(v.at("e1.together"), Verdict::does_not_hold);
  // Stopped before gradient descent has learned anything: no half-times, and the claim is not granted.
  EXPECT_EQ(verdicts("e1", small + "descent_steps: 10\n").at("e1.growth"), Verdict::holds_in_part);
}

TEST_F(NetworkExperiments, Routing) {
  const auto v = verdicts("e4", "seeds: 1\nspectral_lr: 0.03\nspectral_steps: 60\ndescent_steps: 400\n");
  EXPECT_TRUE(v.contains("e4.bias"));
  EXPECT_TRUE(v.contains("e4.muon"));
}

}  // namespace
}  // namespace spectrain::lab
