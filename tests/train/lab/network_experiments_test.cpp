#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string>

#include "kernels/error.h"
#include "tests/train/lab/check_outcome.h"
#include "tests/train/scratch_directory.h"
#include "train/checksum.h"
#include "train/lab/classifier.h"
#include "train/lab/configured_experiment.h"
#include "train/lab/convnets.h"
#include "train/lab/synthetic.h"

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

std::uint64_t hash_of(const Examples& e) {
  Checksum sum;
  sum.update(e.x.data(), e.x.size() * sizeof(float));
  sum.update(e.label.data(), e.label.size() * sizeof(std::int32_t));
  return sum.digest();
}

TEST(LabData, MadeUpExamplesAreGolden) {
  const Prototypes classes(1);
  EXPECT_EQ(hash_of(classes.draw(100, {1, 1000})), 0x6f3f5e0df71b9dfbull);
  EXPECT_EQ(hash_of(classes.balanced(100, 103, 7, {1, 5})), 0xf18314ae216e0d49ull);
  EXPECT_EQ(hash_of(teacher_data(100, {1, 2}, {1, 3})), 0x203b72d6d18c04c4ull);
  EXPECT_NE(hash_of(classes.draw(100, {1, 1000})), hash_of(classes.draw(100, {1, 1002})));
}

// The frequencies of the classes, and examples that lie around their class's prototype.
TEST(LabData, ClassesOfALongTail) {
  const Prototypes classes(3);
  EXPECT_NEAR(classes.probability(0) / classes.probability(99), 1000, 1e-6);
  const Examples e = classes.draw(20000, {3, 1});
  std::vector<double> counts(Prototypes::kClasses, 0);
  for (const std::int32_t label : e.label) ++counts[static_cast<std::size_t>(label)];
  for (const std::int64_t k : {0, 1, 9}) {
    const double expected = 20000 * classes.probability(k);
    EXPECT_NEAR(counts[static_cast<std::size_t>(k)], expected, 5 * std::sqrt(expected)) << k;
  }
  const Examples one = classes.balanced(7, 8, 4000, {3, 2});
  double squares = 0;
  for (std::int64_t j = 0; j < Prototypes::kWidth; ++j) {
    double mean = 0;
    for (std::int64_t i = 0; i < one.count(); ++i)
      mean += static_cast<double>(one.x[static_cast<std::size_t>(i * Prototypes::kWidth + j)]) / 4000;
    squares += mean * mean;
  }
  EXPECT_NEAR(squares, 1, 0.01) << "the prototype is a unit vector";
}

// A part that quick runs of `lab` do not end in a second or two is made smaller still.
class NetworkExperiments : public testing::Test {
 protected:
  std::map<std::string, Verdict> verdicts(const std::string& id, const std::string& options,
                                          bool quick = false, bool all_numbers = true) {
    put_contents(dir_ / "changed.yaml",
                 "base: " SPECTRAIN_SOURCE_DIR "/configs/lab/" + id + ".yaml\nid: " + id + "\n" + options);
    const ConfiguredExperiment e = read_experiment(dir_ / "changed.yaml", quick);
    const char* given = std::getenv("SPECTRAIN_DATA");
    const Surroundings s{*backend_, quick, 1, given ? given : SPECTRAIN_SOURCE_DIR "/../shared/data",
                         [](const std::string&) {}};
    const Outcome out = e.experiment->run(s);
    check_complete(*e.experiment, out, all_numbers);
    std::map<std::string, Verdict> result;
    for (const ClaimResult& c : out.claims) result[c.claim.id] = c.verdict();
    return result;
  }
  // The same for one that reads data sets, which may not be there.
  void run_with_data(const std::string& id, const std::string& options) {
    try {
      EXPECT_FALSE(verdicts(id, options, true).empty());
    } catch (const RequestError& e) {
      if (std::string(e.what()).starts_with("no ")) GTEST_SKIP() << e.what();
      throw;
    }
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
  EXPECT_EQ(verdicts("e1", small + "descent_steps: 10\n", false, false).at("e1.growth"),
            Verdict::holds_in_part);
}

TEST_F(NetworkExperiments, Routing) {
  const auto v = verdicts("e4", "seeds: 1\nspectral_lr: 0.03\nspectral_steps: 60\ndescent_steps: 400\n");
  EXPECT_TRUE(v.contains("e4.bias"));
  EXPECT_TRUE(v.contains("e4.muon"));
}

TEST_F(NetworkExperiments, StepSizes) {
  EXPECT_EQ(verdicts("e10", "quick: {examples: 1000, epochs: 2}\n", true).size(), 3u);
}

TEST_F(NetworkExperiments, LongTail) {
  const auto v = verdicts("e15", "", true);
  EXPECT_EQ(v.at("e15.adam"), Verdict::does_not_hold);
  EXPECT_EQ(v.size(), 2u);
}

const std::string kOwnText = "text: " SPECTRAIN_SOURCE_DIR "/configs/README.md\n";

TEST_F(NetworkExperiments, TokenFrequency) {
  const auto v =
      verdicts("e16", kOwnText + "quick: {vocab: 300, context: 32, steps: 12, held_out: 512}\n", true);
  EXPECT_EQ(v.size(), 2u);
}

TEST_F(NetworkExperiments, CriticalBatchOfAGpt) {
  const std::string small =
      kOwnText +
      "quick: {vocab: 300, width: 32, context: 32, batches: [4, 8, 16], base_batch: 8, tokens: "
      "4096, held_out: 512, target: 5.6}\n";
  EXPECT_EQ(verdicts("e23", small, true).size(), 3u);
  EXPECT_THROW(verdicts("e23", small + "batches: [4, 8, 8]\nbase_batch: 4\n"), RequestError);
  EXPECT_THROW(verdicts("e23", small + "batches: [4, 8, 16]\nbase_batch: 5\n"), RequestError);
}

TEST_F(NetworkExperiments, SpuriousPixel) {
  run_with_data("e6", "quick: {images: 1000, test_images: 200, descent_steps: 50, muon_steps: 50}\n");
}

TEST_F(NetworkExperiments, Airbench) { run_with_data("e17", "quick: {images: 500, test_images: 125}\n"); }

TEST_F(NetworkExperiments, SmallConvnet) { run_with_data("e18", "quick: {steps: 4, test_images: 128}\n"); }

}  // namespace
}  // namespace spectrain::lab
