#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/noisy_bowl.h"

// How many steps T(b) a target takes with batches of b, and how many samples b T(b), on f = 1/2 ||W||_F^2
// with noise whose deviation is `noise` / sqrt(b). From (1/T) sum E ||grad|| <= X/T + Y/sqrt(b) + Z = eps:
//
//   T(b) = X / (eps - Z - Y / sqrt(b)),   samples least at b* = 9 Y^2 / (4 (eps - Z)^2)
//
// so b* should go with Y^2, that is with (beta sqrt((1-beta)/(1+beta)) + 1 - beta)^2 under Nesterov momentum,
// as long as Z, which grows with beta, is small. The b at which T(b) = 1.5 T(infinity) goes with Y^2 in the
// same way.

namespace spectrain::lab {
namespace {

constexpr double kBetas[] = {0, 0.5, 0.9, 0.95};
constexpr double kKnee[] = {62.7, 45.1, 7.3, 0};  // of an independent implementation, eta 0.004; 0: below 4
constexpr double kLeastSmall[] = {16, 16, 4, 4};  // samples least at, eta 0.004
constexpr double kLeastFar[] = {4, 4, 16, 64};    // eta 0.02, target 3
constexpr double kLeastClose[] = {16, 32, 256, 512};  // eta 0.02, target 1
constexpr double kNever = std::numeric_limits<double>::infinity();

struct Sweep {
  std::vector<double> batches, steps;  // steps: infinite where the target was not reached
  double noiseless = 0;                // T(infinity)

  double least_samples_at() const {
    std::size_t best = 0;
    for (std::size_t i = 1; i < batches.size(); ++i)
      if (batches[i] * steps[i] < batches[best] * steps[best]) best = i;
    return batches[best];
  }
  double steps_at(double batch) const {
    const auto at = std::find(batches.begin(), batches.end(), batch);
    return at == batches.end() ? noiseless : steps[static_cast<std::size_t>(at - batches.begin())];
  }
  // Where T(b) falls through 1.5 times `reference`, linear in log b between the grid's points; below the
  // grid: its first.
  double knee(double reference) const {
    const double level = 1.5 * reference;
    for (std::size_t i = batches.size(); i-- > 1;)
      if (steps[i - 1] > level && steps[i] <= level) {
        const double share =
            std::isfinite(steps[i - 1]) ? (steps[i - 1] - level) / (steps[i - 1] - steps[i]) : 1;
        return batches[i - 1] * std::pow(batches[i] / batches[i - 1], share);
      }
    return batches.front();
  }
};

class CriticalBatch final : public Experiment {
 public:
  std::string_view name() const override { return "critical-batch"; }
  std::string_view title() const override {
    return "Critical batch size against momentum, with synthetic noise";
  }

  std::vector<Claim> claims() const override {
    return {
        {"e22.scaling", "arXiv 2507.01598",
         "The critical batch size goes with (beta sqrt((1 - beta) / (1 + beta)) + 1 - beta)^2: a larger "
         "momentum makes it smaller.",
         "With small steps, a batch at which T(b) = 1.5 T(infinity) that does not shrink so (30 %).",
         "The paper's fifth version gives a lower bound on the critical batch alone and withdraws "
         "predictions of its absolute value; the problem and the 1.5 are settings chosen here."},
        {"e22.always", "in circulation", "A larger momentum makes the critical batch size of Muon smaller.",
         "Steps of a size used in practice, near the noise's floor, at which the order is the other way "
         "round.",
         ""},
    };
  }

  void describe(OptionVisitor& v) override {
    v.field("rows", &rows_, within(1, 1000), "of the matrix");
    v.field("cols", &cols_, within(1, 1000), "of the matrix");
    describe_update(v, update_);
    v.field("noise", &noise_, above_only(0), "deviation of one sample's gradient, per element");
    v.field("small_lr", &small_lr_, above_only(0), "eta of the small steps");
    v.field("large_lr", &large_lr_, above_only(0), "eta near the noise's floor");
    v.field("target", &target_, above_only(0), "f to reach");
    v.field("close_target", &close_target_, above_only(0), "a second f, with the larger steps");
    v.field("most_batch", &most_batch_, within(8, 1 << 20),
            "largest batch of the grid of powers of 2 from 4");
    v.field("seeds", &seeds_, within(1, 1000), "runs of each, with their own start and noise");
    v.field("most_steps", &most_steps_, within(1, 1e7),
            "times T(infinity): when a run counts as not arriving");
  }

  Outcome run(const Surroundings& s) override {
    Outcome out;
    std::vector<Found> found;
    Picture samples{"Samples to the target, small steps", "batch", "samples b T(b)", true, true, {}};
    Picture samples_large{
        "Samples to the target, steps near the floor", "batch", "samples b T(b)", true, true, {}};
    for (const double beta : kBetas) {
      const MomentumVariant v{beta, true, update_};
      Found& f = found.emplace_back();
      for (int k = 0; k < seeds_; ++k) {
        s.say(fmt::format("momentum {}, run {} of {}", beta, k + 1, seeds_));
        const Sweep a = sweep(s, v, small_lr_, target_, k), b = sweep(s, v, large_lr_, target_, k),
                    c = sweep(s, v, large_lr_, close_target_, k);
        f.knee.push_back(a.knee(a.noiseless));
        f.coarse.push_back(a.knee(a.steps_at(512)));
        f.small.push_back(a.least_samples_at());
        f.far.push_back(b.least_samples_at());
        f.close.push_back(c.least_samples_at());
        if (k > 0) continue;
        samples.series.push_back(line_of(a, beta));
        samples_large.series.push_back(line_of(c, beta));
      }
    }
    report(found, out);
    const std::vector<Claim> all = claims();
    out.claims = {{all[0], scaling(found)}, {all[1], always(found)}};
    out.pictures = {samples, samples_large};
    out.notes.push_back(
        "Two differences would explain the independent implementation's other numbers at small steps: its "
        "T(infinity) is like one at a batch of about 512 and not that of a run without noise; and it ended "
        "runs after 10,000 steps, which hides the batches of 4 and 8 at beta 0 and 0.5, where the samples "
        "still fall. The ratios, which the claim is about, agree with the prediction in both.");
    out.notes.push_back(
        "The order reverses because Z, what momentum itself costs at a given step size, grows with beta: the "
        "prediction needs Z far below the target.");
    return out;
  }

 private:
  // Of one momentum, by run.
  struct Found {
    std::vector<double> knee, coarse, small, far, close;
  };

  void report(const std::vector<Found>& found, Outcome& out) const {
    for (std::size_t i = 0; i < found.size(); ++i) {
      const std::string which = fmt::format(", beta {}", kBetas[i]);
      out.measurements.push_back(
          measured("batch where T = 1.5 T(infinity), small steps" + which, found[i].knee));
      out.measurements.push_back(
          published(measured("the same with T(512) for T(infinity)" + which, found[i].coarse), kKnee[i],
                    kKnee[i] > 0 && as_published()));
      const auto least = [&](const char* what, const std::vector<double>& values, double expected) {
        out.measurements.push_back(published(measured(what + which, values), expected, as_published()));
      };
      least("batch with the fewest samples, small steps", found[i].small, kLeastSmall[i]);
      least("batch with the fewest samples, large steps", found[i].far, kLeastFar[i]);
      least("batch with the fewest samples, large steps, closer target", found[i].close, kLeastClose[i]);
    }
  }

  static std::vector<Check> scaling(const std::vector<Found>& found) {
    std::vector<Check> checks;
    const double none = mean_of(found[0].knee);
    for (std::size_t i = 1; i < found.size(); ++i) {
      const double predicted = std::pow(noise_factor({kBetas[i], true}), 2),
                   ratio = mean_of(found[i].knee) / none;
      const std::string which =
          fmt::format("beta {}: critical batch, relative to no momentum's, ", kBetas[i]);
      // A knee below the grid says no more than that.
      if (mean_of(found[i].knee) <= 4)
        checks.push_back(no_more(which + fmt::format("at most {} (predicted {}; below the grid of batches)",
                                                     shown(4 / none), shown(predicted)),
                                 ratio, 4 / none));
      else
        checks.push_back(near_expected(which + "within 30 % of the prediction", ratio, predicted, 0.3));
    }
    return checks;
  }

  static std::vector<Check> always(const std::vector<Found>& found) {
    const Found &none = found.front(), &most = found.back();
    return {
        no_more("large steps: the batch with the fewest samples at beta 0.95 / that at beta 0 is at most 1",
                mean_of(most.far) / mean_of(none.far), 1),
        no_more("the same with the closer target", mean_of(most.close) / mean_of(none.close), 1)};
  }

  static Series line_of(const Sweep& sweep, double beta) {
    Series line{fmt::format("beta {}", beta), sweep.batches, {}};
    for (std::size_t i = 0; i < sweep.batches.size(); ++i)
      line.y.push_back(std::isfinite(sweep.steps[i]) ? sweep.batches[i] * sweep.steps[i]
                                                     : std::numeric_limits<double>::quiet_NaN());
    return line;
  }
  double steps_to(const Surroundings& s, const MomentumVariant& v, double eta, double target,
                  double deviation, double most, int seed, std::uint64_t run) const {
    NoisyBowl bowl(gaussian(rows_, cols_, key_of(s.seed, "start", static_cast<std::uint64_t>(seed)), 2),
                   deviation, s.seed, run + (static_cast<std::uint64_t>(seed) << 32));
    for (double t = 1; t <= most; ++t) {
      bowl.step(v, eta);
      if (bowl.loss() <= target) return t;
    }
    return kNever;
  }
  Sweep sweep(const Surroundings& s, const MomentumVariant& v, double eta, double target, int seed) const {
    Sweep result;
    result.noiseless = steps_to(s, v, eta, target, 0, 1e6, seed, 0);
    for (std::int64_t b = 4; b <= most_batch_; b *= 2) {
      result.batches.push_back(static_cast<double>(b));
      result.steps.push_back(steps_to(s, v, eta, target, noise_ / std::sqrt(static_cast<double>(b)),
                                      static_cast<double>(most_steps_) * result.noiseless, seed,
                                      static_cast<std::uint64_t>(b)));
    }
    return result;
  }

  bool as_published() const { return rows_ == 16 && cols_ == 24 && update_ == Update::polar; }

  std::int64_t rows_ = 16, cols_ = 24, most_batch_ = 1024, most_steps_ = 12;
  int seeds_ = 3;
  Update update_ = Update::polar;
  double noise_ = 10, small_lr_ = 0.004, large_lr_ = 0.02, target_ = 3, close_target_ = 1;
};

}  // namespace

std::unique_ptr<Experiment> make_critical_batch() { return std::make_unique<CriticalBatch>(); }

}  // namespace spectrain::lab
