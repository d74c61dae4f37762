#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/memory.h"

// With label noise the excess loss after T steps, the step size chosen for T: Muon's with eta = c ln K / T
// falls as T^-2 for every imbalance beta, gradient descent's as T^-(1 - 1/beta) while T < M^beta.
//
// Muon's weights must be able to reach ln(K (1 - alpha) / alpha) in T steps of eta: c > 1 + ln((1 -
// alpha)/alpha) / ln K. Near the optimum it steps to and fro, |delta| <= eta, which costs at most q (1 - q)
// eta^2 / 2.

namespace spectrain::lab {
namespace {

struct MuonSetting {
  double c, alpha, slope;  // of an independent implementation
};
constexpr MuonSetting kMuon[] = {{2, 0.1, -2.06}, {2, 0.3, -1.99}, {1.3, 0.1, -2.28}, {1.3, 0.3, -1.73}};
constexpr double kBetas[] = {1.5, 2};

struct GradientSetting {
  double beta;
  std::int64_t groups, first, last;  // T from first to last
  double slope;                      // of an independent implementation
  bool judged;
};
constexpr GradientSetting kGradient[] = {{3, 60, 100, 2000, -0.673, true},
                                         {2, 400, 20, 320, -0.481, true},
                                         {2, 200, 100, 2000, -0.525, false},
                                         {1.5, 1500, 20, 320, -0.345, true},
                                         {1.25, 2000, 20, 320, -0.260, false}};

class MemoryScaling final : public Experiment {
 public:
  std::string_view name() const override { return "memory-scaling"; }
  std::string_view title() const override {
    return "Associative memory with label noise: scaling laws in the steps";
  }

  std::vector<Claim> claims() const override {
    return {
        {"e13.muon", "arXiv 2602.05725",
         "With label noise and eta = c ln K / T, Muon's excess loss falls as T^-2, however unequal the "
         "groups.",
         "A slope of the excess over T outside [-2.4, -1.7], or one that depends on beta.",
         "K, M, C and step sizes of the paper's figures could not be recovered; those here stand in for "
         "them."},
        {"e13.gradient", "arXiv 2602.05725",
         "Gradient descent's excess loss falls as T^-(1 - 1/beta), slower the heavier the tail.",
         "A slope more than 10 % from that for beta 1.5, 2 or 3.",
         "Only for T below M^beta: with fewer groups there is no tail left to learn."},
        {"e13.any", "a reading of arXiv 2602.05725",
         "Muon's T^-2 needs no tuning of the step size beyond eta ~ ln K / T.",
         "With eta = ln K / T the weights cannot reach the optimum, and the excess does not fall at all.",
         ""},
    };
  }

  void describe(OptionVisitor& v) override {
    v.field("muon_groups", &muon_groups_, within(2, 1000), "M of Muon's runs, an SVD of [M, M] each step");
    v.field("per_group", &per_group_, within(2, 1e9), "C");
    describe_rule(v, muon_);
    v.field("first", &first_, within(5, 1e6), "smallest T of Muon's runs");
    v.field("doublings", &doublings_, within(2, 20), "of T, each a run");
  }

  Outcome run(const Surroundings& s) override {
    Outcome out;
    muon_runs(s, out);
    gradient_runs(s, out);
    short_of_reach(s, out);
    out.notes.push_back(
        "The excess is the largest of a run's last four steps: Muon steps to and fro around the optimum, and "
        "the last loss alone varies tenfold with T. Slopes are least squares lines of logarithms.");
    return out;
  }

 private:
  // The largest excess over the last four steps of a run of T.
  static double envelope(const std::vector<double>& losses) {
    return *std::max_element(losses.end() - 4, losses.end());
  }
  double log_items() const { return std::log(static_cast<double>(muon_groups_ * per_group_)); }

  // By T, of a run's last four steps the largest, or the last alone.
  std::vector<double> muon_excess(const MemoryTask& task, double c, std::vector<double>& steps,
                                  bool last = false) const {
    std::vector<double> excess;
    steps.clear();
    for (std::int64_t i = 0, t = first_; i <= doublings_; ++i, t *= 2) {
      steps.push_back(static_cast<double>(t));
      const std::vector<double> losses = memory_run(task, muon_, c * log_items() / static_cast<double>(t), t);
      excess.push_back(last ? losses.back() : envelope(losses));
    }
    return excess;
  }

  void muon_runs(const Surroundings& s, Outcome& out) const {
    std::vector<Check> checks;
    Picture picture{"Excess loss with label noise, Muon", "steps T", "excess", true, true, {}};
    double apart = 0, cap = 0;
    for (const MuonSetting& setting : kMuon) {
      double slopes[2] = {};
      for (std::size_t i = 0; i < std::size(kBetas); ++i) {
        s.say(fmt::format("Muon, c {}, alpha {}, beta {}", setting.c, setting.alpha, kBetas[i]));
        const MemoryTask task(muon_groups_, per_group_, kBetas[i], setting.alpha);
        std::vector<double> steps;
        const std::vector<double> excess = muon_excess(task, setting.c, steps);
        slopes[i] = log_slope(steps, excess);
        const std::string at = fmt::format("c {}, alpha {}, beta {}", setting.c, setting.alpha, kBetas[i]);
        out.measurements.push_back(published(measured("slope of the excess over T, Muon, " + at, slopes[i]),
                                             setting.slope, as_published()));
        for (std::size_t k = 0; k < steps.size(); ++k) {
          const double eta = setting.c * log_items() / steps[k];
          cap = std::max(cap, excess[k] / (task.right() * (1 - task.right()) / 2 * eta * eta));
        }
        if (i == 0) {
          picture.series.push_back({at, steps, excess});
          checks.push_back(
              between(fmt::format("c {}, alpha {}: slope in [-2.4, -1.7]", setting.c, setting.alpha),
                      slopes[i], -2.4, -1.7));
        }
      }
      apart = std::max(apart, std::abs(slopes[1] - slopes[0]));
    }
    out.measurements.push_back(measured("largest excess / (q (1 - q) eta^2 / 2)", cap));
    checks.push_back(no_more("slopes at beta 1.5 and 2 differ by at most 0.01", apart, 0.01));
    checks.push_back(no_more(
        "the excess is at most about q (1 - q) eta^2 / 2, a step to one side: factor below 1.5", cap, 1.5));
    out.claims.push_back({claims()[0], checks});
    out.pictures.push_back(picture);
  }

  void gradient_runs(const Surroundings& s, Outcome& out) const {
    std::vector<Check> checks;
    Picture picture{"Excess loss with label noise, gradient descent", "steps T", "excess", true, true, {}};
    for (const GradientSetting& setting : kGradient) {
      s.say(fmt::format("gradient descent, beta {}, {} groups", setting.beta, setting.groups));
      const MemoryTask task(setting.groups, per_group_, setting.beta, 0.1);
      const std::vector<double> losses = memory_gradient_run(task, 1 / task.frequency(0), setting.last);
      Series line{fmt::format("beta {}, {} groups", setting.beta, setting.groups), {}, {}};
      for (const double t :
           log_spaced(static_cast<double>(setting.first), static_cast<double>(setting.last), 9)) {
        line.x.push_back(std::round(t));
        line.y.push_back(losses[static_cast<std::size_t>(std::round(t)) - 1]);
      }
      const double slope = log_slope(line.x, line.y), theory = -(1 - 1 / setting.beta);
      const std::string at = fmt::format("beta {}, {} groups, T {} to {}", setting.beta, setting.groups,
                                         setting.first, setting.last);
      out.measurements.push_back(
          published(measured("slope of the excess over T, gradient descent, " + at, slope), setting.slope,
                    as_published()));
      if (setting.judged)
        checks.push_back(near_expected(at + ": slope within 10 % of -(1 - 1/beta)", slope, theory, 0.1));
      picture.series.push_back(line);
    }
    out.claims.push_back({claims()[1], checks});
    out.pictures.push_back(picture);
  }

  // c = 1 < 1 + ln((1 - alpha) / alpha) / ln K.
  void short_of_reach(const Surroundings& s, Outcome& out) const {
    s.say("Muon, c 1");
    const MemoryTask task(muon_groups_, per_group_, 1.5, 0.1);
    std::vector<double> steps;
    const std::vector<double> excess = muon_excess(task, 1, steps, true);
    for (std::size_t i = 0; i < steps.size(); ++i)
      out.measurements.push_back(published(
          measured(fmt::format("excess after the last step at c 1, alpha 0.1, T {}", steps[i]), excess[i]),
          0.368, as_published()));
    out.measurements.push_back(
        measured("c that reaches the optimum, at alpha 0.1", 1 + std::log(9.0) / log_items()));
    out.claims.push_back(
        {claims()[2],
         {no_more("slope of the excess over T at c = 1 is -1.7 or steeper", log_slope(steps, excess), -1.7),
          no_more("the last excess at c = 1 is below half of the first", excess.back() / excess.front(),
                  0.5)}});
  }

  bool as_published() const {
    return muon_groups_ == 50 && per_group_ == 10000 && first_ == 20 && doublings_ == 5 &&
           muon_ == MemoryRule::orthogonal;
  }

  std::int64_t muon_groups_ = 50, per_group_ = 10000, first_ = 20, doublings_ = 5;
  MemoryRule muon_ = MemoryRule::orthogonal;
};

}  // namespace

std::unique_ptr<Experiment> make_memory_scaling() { return std::make_unique<MemoryScaling>(); }

}  // namespace spectrain::lab
