#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/lab/classifier.h"
#include "train/lab/experiment.h"
#include "train/lab/synthetic.h"

// E15: linear classification with a long tail of classes. Class k of 400 is drawn with probability ~ k^-1.5
// and lies around its own prototype, a unit vector of 256 numbers, with noise .6. Which rule learns the rare
// classes?

namespace spectrain::lab {
namespace {

constexpr std::int64_t kClasses = Prototypes::kClasses, kWidth = Prototypes::kWidth, kBatch = 512;

class LongTail final : public Experiment {
 public:
  std::string_view name() const override { return "long-tail"; }
  std::string_view title() const override { return "Rare classes of a long tail"; }
  std::vector<Claim> claims() const override {
    const std::string remark =
        "The paper's generator could not be read; prototypes with noise stand in for it. Noise .6 is the "
        "length of the "
        "whole noise vector.";
    return {{"e15.tail", "arXiv 2602.05725",
             "Muon learns the tail of a long-tailed distribution where SGD learns the head alone.",
             "A difference in accuracy on the tail below 40 points after 100 steps, or one on the head of 1 "
             "point and more.",
             remark},
            {"e15.adam", "in circulation", "Muon learns the tail better than Adam.",
             "A tail accuracy of tuned Adam within 5 points of Muon's.", remark}};
  }
  void describe(OptionVisitor& v) override {
    v.field("steps", &steps_, count_from(100), "batches of 512, the learning rate falls to 0");
    v.field("seeds", &seeds_, within(1, 20), "data and batches");
  }
  Outcome run(const Surroundings& s) override;

 private:
  std::int64_t steps_ = 400, seeds_ = 1;
};

struct Rule {
  std::string name;
  GroupConfig group;
  double known[4];  // tail accuracy at 50, 100, 200, 400 steps
};

std::vector<Rule> rules_of() {
  const std::vector<Role> head{Role::head};
  return {{"SGD with momentum, lr 100",
           group(head, "sgd", {{"lr", "100"}, {"momentum", "0.9"}}),
           {.191, .489, .751, .847}},
          {"SignSGD with momentum, lr 0.03",
           group(head, "signum", {{"lr", "0.03"}, {"momentum", "0.9"}}),
           {.795, .959, 1, 1}},
          {"Adam, lr 0.1", group(head, "adam", {{"lr", "0.1"}}), {.842, .969, 1, 1}},
          {"Muon, lr 1",
           group(head, "muon",
                 {{"lr", "1"},
                  {"momentum", "0.95"},
                  {"shape_scale", "none"},
                  {"newton_schulz.coefficients", "keller"},
                  {"newton_schulz.steps", "5"}}),
           {.847, .954, .995, .999}}};
}

Outcome LongTail::run(const Surroundings& s) {
  const std::vector<Rule> rules = rules_of();
  const std::int64_t marks[] = {50, 100, 200, 400};
  Outcome out;
  std::vector<std::vector<double>> tail(rules.size()), head(rules.size());  // at 100 steps, by seed
  Picture p{"Accuracy on the classes 101 to 400", "steps", "accuracy", false, false, {}};
  for (std::size_t i = 0; i < rules.size(); ++i) {
    s.say(rules[i].name);
    Series line{rules[i].name, {}, {}};
    std::vector<double> at_mark(4, 0);
    for (std::int64_t k = 0; k < seeds_; ++k) {
      const std::uint64_t seed = s.seed + static_cast<std::uint64_t>(k);
      const Prototypes data(seed);
      const Examples rare = data.balanced(100, kClasses, 7, {seed, stream_of("tail test")}),
                     frequent = data.balanced(0, 100, 20, {seed, stream_of("head test")});
      OptimizerConfig config;
      config.groups = {rules[i].group};
      Classifier net(
          s.backend, {kBatch, kWidth, kClasses, 0, false},
          [](Tape& t, Value x) {
            return t.linear(x, t.parameter("w", {kClasses, kWidth}, Role::head, Initializer::zeros()));
          },
          config, seed);
      for (std::int64_t step = 0; step < steps_; ++step) {
        const Examples batch = data.draw(kBatch, {seed, 1000 + 2 * static_cast<std::uint64_t>(step)});
        net.step(batch.x, batch.label, 1 - static_cast<double>(step) / static_cast<double>(steps_));
        const auto mark = std::find(std::begin(marks), std::end(marks), step + 1) - std::begin(marks);
        if (mark < 4)
          at_mark[static_cast<std::size_t>(mark)] += net.accuracy(rare) / static_cast<double>(seeds_);
        if (step + 1 == 100) {
          tail[i].push_back(net.accuracy(rare));
          head[i].push_back(net.accuracy(frequent));
        }
        if (k == 0 && (step + 1) % 25 == 0) {
          line.x.push_back(static_cast<double>(step + 1));
          line.y.push_back(net.accuracy(rare));
        }
      }
    }
    for (std::size_t m = 0; m < 4; ++m)
      if (marks[m] <= steps_) {
        Measurement number{fmt::format("accuracy on the tail after {} steps, {}", marks[m], rules[i].name),
                           at_mark[m],
                           0,
                           static_cast<int>(seeds_),
                           {},
                           "",
                           ""};
        if (steps_ == 400) {
          number.expected = rules[i].known[m];
          number.expected_from = "an independent implementation, one seed";
        }
        out.measurements.push_back(number);
      }
    p.series.push_back(line);
  }
  out.pictures.push_back(p);
  double gap = 1, head_gap = 0, lead = -1;
  for (std::size_t k = 0; k < tail[0].size(); ++k) {
    gap = std::min(gap, tail[3][k] - tail[0][k]);
    head_gap = std::max(head_gap, std::abs(head[3][k] - head[0][k]));
    lead = std::max(lead, tail[3][k] - tail[2][k]);
  }
  out.notes.push_back(
      "Head are the 100 most frequent classes, each counted alike: the last of them is drawn once in 2,500 "
      "examples. An independent implementation had every rule above 99 % on its head, whose extent it does "
      "not "
      "give; on these 100 classes SGD is still behind after 100 steps.");
  out.claims.push_back({claims()[0],
                        {{"after 100 steps Muon is 40 points or more above SGD on the tail",
                          fmt::format("{:.1f} points", 100 * gap), gap >= 0.4},
                         {"and less than 1 point apart on the head",
                          fmt::format("{:.2f} points", 100 * head_gap), head_gap < 0.01}}});
  out.claims.push_back({claims()[1],
                        {{"after 100 steps Muon is 5 points or more above Adam on the tail",
                          fmt::format("{:.1f} points", 100 * lead), lead >= 0.05}}});
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_long_tail() { return std::make_unique<LongTail>(); }

}  // namespace spectrain::lab
