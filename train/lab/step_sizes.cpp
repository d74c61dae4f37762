#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/lab/classifier.h"
#include "train/lab/experiment.h"
#include "train/lab/synthetic.h"

// E10: accuracy against the learning rate, over five orders of magnitude, for SGD and Muon with momentum .9,
// with and without batch norm. Data: Gaussian inputs with deviations that fall from 3 to .3, classes given by
// a random network.

namespace spectrain::lab {
namespace {

constexpr std::int64_t kInputs = kTeacherInputs, kClasses = kTeacherClasses, kBatch = 250;

struct Sweep {
  double first_epoch = 0, end = 0;  // accuracy on the test set
  bool finite = true;
};

class StepSizes final : public Experiment {
 public:
  std::string_view name() const override { return "step-sizes"; }
  std::string_view title() const override {
    return "SGD and Muon over five orders of magnitude of the learning rate";
  }
  std::vector<Claim> claims() const override {
    const std::string remark =
        "The paper's own sweep is on CIFAR-10 with step sizes that could not be read; teacher data stand in "
        "for it.";
    return {{"e10.faster", "arXiv 2605.13079",
             "At equal learning rates Muon is ahead of SGD after the first epoch.",
             "An epoch-1 accuracy of SGD above Muon's at lr .03 or .1 with batch norm.", remark},
            {"e10.larger", "arXiv 2605.13079", "Muon tolerates far larger learning rates than SGD.",
             "An end accuracy of Muon at lr 10 with batch norm that is not at least 10 points above SGD's, "
             "or a Muon run that "
             "is not finite.",
             remark + " Stable means that nothing blows up, not that it trains: see the runs without norm."},
            {"e10.trains", "in circulation", "Muon trains well at learning rates where SGD dies.",
             "An accuracy at chance under Muon without norm layers at lr 1 and above.", remark}};
  }
  void describe(OptionVisitor& v) override {
    v.field("examples", &examples_, within(kBatch, 1000000), "training examples");
    v.field("epochs", &epochs_, count_from(1), "over them, batches of 250");
    v.field("quick_rates", &few_, {}, "every second learning rate only");
  }
  Outcome run(const Surroundings& s) override;

 private:
  Sweep train(const Surroundings& s, const Examples& train_set, const Examples& test_set, bool norm,
              bool muon, double lr) const;
  std::int64_t examples_ = 8000, epochs_ = 20;
  bool few_ = false;
};

Sweep StepSizes::train(const Surroundings& s, const Examples& train_set, const Examples& test_set, bool norm,
                       bool muon, double lr) const {
  const std::vector<Role> roles{Role::hidden, Role::head};
  OptimizerConfig rules;
  rules.groups = {muon ? group(roles, "muon",
                               {{"lr", text(lr)},
                                {"momentum", "0.9"},
                                {"shape_scale", "none"},
                                {"newton_schulz.coefficients", "keller"},
                                {"newton_schulz.steps", "5"}})
                       : group(roles, "sgd", {{"lr", text(lr)}, {"momentum", "0.9"}})};
  const PerceptronOptions shape{{kInputs, 128, 128, kClasses}, norm, false};
  Classifier net(
      s.backend, {kBatch, kInputs, kClasses, 0, false},
      [&](Tape& t, Value x) { return perceptron(t, x, shape); }, rules, s.seed);
  Sweep result;
  const std::int64_t per_epoch = train_set.count() / kBatch;
  for (std::int64_t epoch = 0; epoch < epochs_; ++epoch) {
    const auto order =
        shuffled(train_set.count(), {s.seed, stream_of("step sizes") + static_cast<std::uint64_t>(epoch)});
    for (std::int64_t b = 0; b < per_epoch; ++b)
      result.finite =
          result.finite &&
          std::isfinite(
              net.step(train_set, std::span(order).subspan(static_cast<std::size_t>(b * kBatch), kBatch), 1));
    if (epoch == 0) result.first_epoch = net.accuracy(test_set);
  }
  result.end = net.accuracy(test_set);
  return result;
}

Outcome StepSizes::run(const Surroundings& s) {
  const RandomKey teacher{s.seed, stream_of("teacher")};
  const Examples train_set = teacher_data(examples_, {s.seed, stream_of("training data")}, teacher);
  const Examples test_set = teacher_data(2000, {s.seed, stream_of("test data")}, teacher);
  std::vector<double> rates = {0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30};
  if (few_) rates = {0.03, 0.1, 1, 10};
  Outcome out;
  std::vector<std::vector<Sweep>> all;  // [norm, muon]: 0 SGD, 1 Muon, 2 SGD with batch norm, 3 Muon with
  Picture p{"Accuracy after all epochs", "learning rate", "test accuracy", true, false, {}};
  for (const bool norm : {false, true})
    for (const bool muon : {false, true}) {
      const std::string name = fmt::format("{}{}", muon ? "Muon" : "SGD", norm ? ", batch norm" : "");
      s.say(name);
      all.emplace_back();
      Series line{name, {}, {}};
      for (const double lr : rates) {
        all.back().push_back(train(s, train_set, test_set, norm, muon, lr));
        const Sweep& r = all.back().back();
        line.x.push_back(lr);
        line.y.push_back(r.end);
        out.measurements.push_back(
            {fmt::format("accuracy after epoch 1, {}, lr {:g}", name, lr), r.first_epoch, 0, 1, {}, "", ""});
        out.measurements.push_back(
            {fmt::format("accuracy at the end, {}, lr {:g}{}", name, lr, r.finite ? "" : " (not finite)"),
             r.end,
             0,
             1,
             {},
             "",
             ""});
      }
      p.series.push_back(line);
    }
  out.pictures.push_back(p);
  const auto at = [&](double lr) {
    return static_cast<std::size_t>(std::find(rates.begin(), rates.end(), lr) - rates.begin());
  };
  std::vector<Check> faster;
  for (const double lr : {0.03, 0.1}) {
    const double sgd = all[2][at(lr)].first_epoch, muon = all[3][at(lr)].first_epoch;
    faster.push_back(
        {fmt::format("with batch norm at lr {:g} Muon's accuracy after epoch 1 is above SGD's", lr),
         fmt::format("{:.3f} against {:.3f}", muon, sgd), muon > sgd});
  }
  const double sgd10 = all[2][at(10)].end, muon10 = all[3][at(10)].end;
  bool finite = true, sgd_dead = true, muon_alive = false;
  double best_large = 0;
  for (std::size_t i = 0; i < rates.size(); ++i) {
    finite = finite && all[1][i].finite && all[3][i].finite;
    if (rates[i] < 1) continue;
    sgd_dead = sgd_dead && (!all[0][i].finite || all[0][i].end < 0.2);
    muon_alive = muon_alive || all[1][i].end > 0.2;
    best_large = std::max(best_large, all[1][i].end);
  }
  out.claims.push_back({claims()[0], faster});
  out.claims.push_back(
      {claims()[1],
       {{"with batch norm at lr 10 Muon ends 10 points or more above SGD",
         fmt::format("{:.3f} against {:.3f}", muon10, sgd10), muon10 >= sgd10 + 0.10},
        {"every Muon run is finite", finite ? "so" : "not so", finite},
        {"without norm SGD at lr 1 and above is dead", sgd_dead ? "so" : "not so", sgd_dead}}});
  out.claims.push_back({claims()[2],
                        {{"without norm Muon at lr 1 and above ends above twice chance",
                          fmt::format("{:.3f} at best", best_large), muon_alive}}});
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_step_sizes() { return std::make_unique<StepSizes>(); }

}  // namespace spectrain::lab
