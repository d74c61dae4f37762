#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/own_rule.h"
#include "train/lab/update.h"

// Many steps of one size on f = 1/2 ||D||_F^2, D [m,n]:
//
//   gradient descent  f = f_0 (1 - eta)^(2 steps), which explodes for eta > 2
//   polar factor      a singular value falls by eta a step and then alternates between some r and eta - r, so
//   that in
//                     the mean over steps f ends in [m eta^2 / 8, m eta^2 / 4] and is never above m eta^2 / 2

namespace spectrain::lab {
namespace {

constexpr double kSteps[] = {0.1, 0.2, 0.5, 1, 1.5, 2.5, 5, 10, 20};

struct LongRun {
  std::vector<double> loss;  // after each step
  // Over the last third, when the descent is over.
  std::vector<double> last() const {
    return {loss.end() - static_cast<std::ptrdiff_t>(loss.size() / 3), loss.end()};
  }
  double floor() const { return mean_of(last()); }
  double last_most() const {
    const std::vector<double> all = last();
    return *std::max_element(all.begin(), all.end());
  }
};

double half_square(const Matrix& d) { return inner(d, d) / 2; }

LongRun descend(Matrix d, double eta, std::int64_t steps, const std::optional<Update>& update, bool decayed) {
  LongRun run;
  for (std::int64_t t = 0; t < steps; ++t) {
    const double left = decayed ? 1 - static_cast<double>(t) / static_cast<double>(steps) : 1;
    if (update)
      add_scaled(d, -eta * left, updated(*update, d));
    else
      d = scaled(1 - eta * left, d);
    run.loss.push_back(half_square(d));
  }
  return run;
}

// Until the loss leaves the range of a double, which it does at the larger step sizes.
double log_rate(const LongRun& run, double start) {
  std::size_t steps = 0;
  while (steps < run.loss.size() && run.loss[steps] < 1e250 && run.loss[steps] > 1e-250) ++steps;
  return steps == 0 ? 0 : std::log10(run.loss[steps - 1] / start) / static_cast<double>(steps);
}

Series line_of(const LongRun& run, double eta, double start) {
  Series line{fmt::format("eta {}", eta), {}, {}};
  for (std::size_t t = 0; t < run.loss.size(); ++t) {
    line.x.push_back(static_cast<double>(t + 1));
    line.y.push_back(run.loss[t] / start);
  }
  return line;
}

class LongRunStability final : public Experiment {
 public:
  std::string_view name() const override { return "long-run-stability"; }
  std::string_view title() const override {
    return "Constant step sizes from small to absurd, on a quadratic";
  }

  std::vector<Claim> claims() const override {
    return {
        {"e8.bounded", "arXiv 2605.13079",
         "Muon stays bounded at step sizes at which gradient descent diverges.",
         "A step size at which the loss under the polar factor ends above m eta^2 / 2, or gradient descent "
         "above a step of 2 / lambda_max does not diverge.",
         "The paper was read in part; the problem (one curvature, no noise) and the band of the floor are "
         "derived here."},
        {"e8.trains", "in circulation", "Muon trains at step sizes at which gradient descent diverges.",
         "At none of these step sizes does the loss end below a hundredth of its start.", ""},
    };
  }

  void describe(OptionVisitor& v) override {
    v.field("rows", &rows_, within(1, 1000), "of the matrix");
    v.field("cols", &cols_, within(1, 1000), "of the matrix");
    describe_update(v, update_);
    v.field("draws", &draws_, within(1, 1000), "Gaussian starts");
    v.field("steps", &steps_, within(3, 100000), "of each run; enough to cover the distance at eta 0.1");
  }

  Outcome run(const Surroundings& s) override {
    Outcome out;
    std::vector<Check> bounded, trains;
    double worst_rate = 0, low = 1e300, high = 0, peak = 0, least_growth = 1e300;
    Picture curves{"Loss under the polar factor", "step", "f / f at the start", false, true, {}};
    const double m = static_cast<double>(std::min(rows_, cols_));
    for (const double eta : kSteps) {
      s.say(fmt::format("step size {}", eta));
      std::vector<double> rates, floors, ends;
      for (int k = 0; k < draws_; ++k) {
        const Matrix start = start_of(s, k);
        const double f0 = half_square(start);
        const LongRun spec = descend(start, eta, steps_, update_, false);
        floors.push_back(spec.floor() / (m * eta * eta));
        ends.push_back(spec.floor() / f0);
        peak = std::max(peak, spec.last_most() / (m * eta * eta));
        if (std::abs(eta - 1) > 1e-9)
          rates.push_back(log_rate(descend(start, eta, steps_, std::nullopt, false), f0));
        if (k == 0 && (eta < 0.15 || eta > 0.9)) curves.series.push_back(line_of(spec, eta, f0));
      }
      const std::string at = fmt::format(", eta = {}", eta);
      if (!rates.empty()) {
        const double expected = 2 * std::log10(std::abs(1 - eta));
        out.measurements.push_back(
            expecting(measured("log10 of the loss's factor per step, gradient descent" + at, rates), expected,
                      "2 log10 |1 - eta|"));
        worst_rate = std::max(worst_rate, std::abs(out.measurements.back().value / expected - 1));
        if (eta > 2) least_growth = std::min(least_growth, *std::min_element(rates.begin(), rates.end()));
      }
      out.measurements.push_back(measured("floor / (m eta^2), polar factor" + at, floors));
      out.measurements.push_back(measured("floor / loss at the start, polar factor" + at, ends));
      low = std::min(low, *std::min_element(floors.begin(), floors.end()));
      high = std::max(high, *std::max_element(floors.begin(), floors.end()));
      if (eta > 2)
        trains.push_back(no_more(fmt::format("at eta = {} the mean loss ends below 0.01 of the start", eta),
                                 mean_of(ends), 0.01));
    }
    bounded.push_back(no_less(
        "the loss of gradient descent grows at every step size above 2 (log10 of its factor per step)",
        least_growth, 1e-3));
    bounded.push_back(
        no_more("that factor is (1 - eta)^2 at every step size: relative error of its logarithm at most 1e-6",
                worst_rate, 1e-6));
    bounded.push_back(
        between("the least floor of the polar factor / (m eta^2) is in [1/8, 1/4]", low, 0.125, 0.25));
    bounded.push_back(between("so is the largest", high, 0.125, 0.25));
    bounded.push_back(
        no_more("no single step of the last third is above m eta^2 / 2 (loss / (m eta^2))", peak, 0.5));
    bounded.push_back(own_rule_check(s, m));
    out.measurements.push_back(measured(
        "loss at the end / start, polar factor, eta from 20 linearly to 0",
        descend(start_of(s, 0), 20, steps_, update_, true).loss.back() / half_square(start_of(s, 0))));
    const std::vector<Claim> all = claims();
    out.claims = {{all[0], bounded}, {all[1], trains}};
    out.pictures.push_back(curves);
    out.notes.push_back(
        "The source has no numbers for this run. Criteria chosen before measuring: the band of the floor "
        "follows from a singular value's alternating between r and eta - r, and 0.01 of the start is what "
        "the smallest step sizes reach. A schedule that lowers the step size to 0 removes the floor.");
    return out;
  }

 private:
  // The program's rule in float32 at an absurd step size.
  Check own_rule_check(const Surroundings& s, double m) const {
    constexpr double kEta = 20;
    OwnRule rule(s.backend, plain_spectral_descent(), start_of(s, 0));
    double most = 0;
    for (std::int64_t t = 0; t < 40; ++t) {
      rule.step(rule.weight(), kEta);
      most = std::max(most, half_square(rule.weight()) / (m * kEta * kEta));
    }
    return no_more(
        "40 steps of the program's spectral_descent at eta = 20 stay at or below m eta^2 / 2, to 1e-4", most,
        0.5 + 1e-4);
  }

  Matrix start_of(const Surroundings& s, int draw) const {
    return gaussian(rows_, cols_,
                    key_of(s.seed, "distance to the optimum", static_cast<std::uint64_t>(draw)));
  }

  std::int64_t rows_ = 24, cols_ = 40, steps_ = 300;
  int draws_ = 3;
  Update update_ = Update::polar;
};

}  // namespace

std::unique_ptr<Experiment> make_long_run_stability() { return std::make_unique<LongRunStability>(); }

}  // namespace spectrain::lab
