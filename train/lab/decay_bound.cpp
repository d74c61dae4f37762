#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/own_rule.h"
#include "train/lab/update.h"

// W = (1 - eta lambda) W - eta O with ||O||_2 = 1, whatever the gradient is. With q = |1 - eta lambda| < 1
//
//   ||W_t||_2 <= q^t ||W_0||_2 + eta / (1 - q)      1 / lambda          for eta lambda <= 1
//                                                   eta / (2 - eta lambda) for 1 < eta lambda < 2
//
// and from eta lambda = 2 on the gradient that pushes outwards grows it without end. Newton-Schulz with five
// of Keller Jordan's steps lets singular values of up to 1.202 through, and every bound is that much larger.

namespace spectrain::lab {
namespace {

constexpr double kDecays[] = {0, 0.1, 1, 5};
constexpr double kOvershoot = 1.202;

enum class Force : std::uint8_t {
  drifting,  // a constant matrix plus noise
  outward,   // whatever makes W longest: after a step that turned W's sign, along it
};

double bound_of(double eta, double decay) {
  const double product = eta * decay;
  if (decay <= 0 || product >= 2) return std::numeric_limits<double>::infinity();
  return product <= 1 ? 1 / decay : eta / (2 - product);
}

class DecayBound final : public Experiment {
 public:
  std::string_view name() const override { return "decay-bound"; }
  std::string_view title() const override { return "Weight decay bounds the weights, and when it stops"; }

  std::vector<Claim> claims() const override {
    return {
        {"e21.bounded", "arXiv 2507.01598",
         "With decoupled weight decay lambda and eta lambda <= 1, Muon's weights stay within ||W||_2 <= 1 / "
         "lambda.",
         "A run, under any gradients, that leaves the bound.",
         "The paper was read in part; the forces and sizes are settings chosen here."},
        {"e21.unbounded", "derived here",
         "Above eta lambda = 1 the bound becomes eta / (2 - eta lambda), and at eta lambda = 2 there is "
         "none.",
         "A step size above 2 / lambda whose weights stay bounded under every force, or one below whose "
         "weights do not.",
         ""},
        {"e21.any", "in circulation", "Weight decay keeps Muon's weights bounded.",
         "A product eta lambda of 2 and more, at which nothing does.", ""},
    };
  }

  void describe(OptionVisitor& v) override {
    v.field("rows", &rows_, within(1, 1000), "of the matrix, no more than cols");
    v.field("cols", &cols_, within(1, 1000), "of the matrix");
    v.field("lr", &lr_, above_only(0), "eta of the first part");
    v.field("steps", &steps_, within(10, 1e6), "of each run of the first part");
    describe_update(v, update_);
    v.field("decay", &decay_, above_only(0), "lambda of the second part");
    v.field("long_steps", &long_steps_, within(10, 1e6), "of each run of the second part");
    v.field("own_steps", &own_steps_, within(1, 1e6), "of the program's muon, in the first part");
  }

  Outcome run(const Surroundings& s) override {
    Outcome out;
    std::vector<Check> bounded, unbounded, any;
    small_steps(s, out, bounded, any);
    large_steps(s, out, unbounded, any);
    const std::vector<Claim> all = claims();
    out.claims = {{all[0], bounded}, {all[1], unbounded}, {all[2], any}};
    out.notes.push_back(
        "The source has no numbers for this run: the expected ones are the closed forms. The outward force "
        "is the worst of all gradients; under a constant force with noise the bound is not reached.");
    return out;
  }

 private:
  Matrix force_on(const Matrix& w, Force force, double kept, const Matrix& constant, const Surroundings& s,
                  std::int64_t t) const {
    // -eta O points where (1 - eta lambda) W does.
    if (force == Force::outward) return scaled(kept < 0 ? 1 : -1, w);
    Matrix g = constant;
    add_scaled(g, 1, gaussian(rows_, cols_, key_of(s.seed, "noise", static_cast<std::uint64_t>(t))));
    return g;
  }

  // The spectral norm after each step; ends early beyond 1e100.
  std::vector<double> norms(const Surroundings& s, Force force, double eta, double decay,
                            std::int64_t steps) const {
    const Matrix constant = gaussian(rows_, cols_, key_of(s.seed, "constant force"));
    Matrix w = gaussian(rows_, cols_, key_of(s.seed, "start"), 0.01);
    const double kept = 1 - eta * decay;
    std::vector<double> result;
    for (std::int64_t t = 0; t < steps; ++t) {
      const Matrix o = updated(update_, force_on(w, force, kept, constant, s, t));
      w = scaled(kept, w);
      add_scaled(w, -eta, o);
      result.push_back(singular_values(w).front());
      if (result.back() > 1e100) break;
    }
    return result;
  }

  // The program's muon, with Newton-Schulz in float32 and its own decoupled decay, under the outward force.
  double own_norm(const Surroundings& s, double decay) const {
    MuonOptions o;
    o.lr = lr_;
    o.weight_decay = decay;
    o.momentum = 0;
    o.nesterov = false;
    o.shape_scale = ShapeScale::none;
    o.newton_schulz = keller_newton_schulz(5);
    OwnRule rule(s.backend, o, gaussian(rows_, cols_, key_of(s.seed, "start"), 0.01));
    double most = 0;
    for (std::int64_t t = 0; t < own_steps_; ++t) {
      rule.step(scaled(-1, rule.weight()), lr_);
      most = std::max(most, singular_values(rule.weight()).front());
    }
    return most;
  }

  void small_steps(const Surroundings& s, Outcome& out, std::vector<Check>& bounded,
                   std::vector<Check>& any) const {
    Picture growth{
        fmt::format("Spectral norm, eta {}, outward force", lr_), "step", "||W||_2", true, true, {}};
    for (const double decay : kDecays) {
      s.say(fmt::format("eta {}, lambda {}", lr_, decay));
      const std::vector<double> drifting = norms(s, Force::drifting, lr_, decay, steps_),
                                outward = norms(s, Force::outward, lr_, decay, steps_);
      const double bound = bound_of(lr_, decay), most = *std::max_element(drifting.begin(), drifting.end()),
                   most_outward = *std::max_element(outward.begin(), outward.end());
      const std::string at = fmt::format(", eta {}, lambda {}", lr_, decay);
      out.measurements.push_back(measured("largest ||W||_2, constant force and noise" + at, most));
      Measurement m = measured("largest ||W||_2, outward force" + at, most_outward);
      Series line{fmt::format("lambda {}", decay), {}, outward};
      for (std::size_t t = 0; t < outward.size(); ++t) line.x.push_back(static_cast<double>(t + 1));
      growth.series.push_back(line);
      if (decay > 0) {
        out.measurements.push_back(
            expecting(m, bound * (1 - std::pow(std::abs(1 - lr_ * decay), static_cast<double>(steps_))),
                      "closed form (1 - q^T) / lambda"));
        const double worst = std::max(most, most_outward) / bound;
        bounded.push_back(
            no_more(fmt::format("lambda {}: no run leaves 1 / lambda (largest norm / bound, to 1e-9)", decay),
                    worst, 1 + 1e-9));
        const double own = own_norm(s, decay) / bound;
        out.measurements.push_back(measured(
            fmt::format("largest ||W||_2 of the program's muon / (1 / lambda), lambda {}", decay), own));
        bounded.push_back(no_more(
            fmt::format(
                "lambda {}: nor does the program's muon leave 1.202 / lambda, to 1e-5 (largest norm / bound)",
                decay),
            own / kOvershoot, 1 + 1e-5));
        any.push_back(
            no_more(fmt::format("eta {}, lambda {}: bounded (largest norm / (1 / lambda))", lr_, decay),
                    worst, 1 + 1e-9));
      } else {
        const double later = outward.back() / outward[outward.size() / 2];
        out.measurements.push_back(expecting(m, lr_ * static_cast<double>(steps_), "closed form eta T"));
        bounded.push_back(
            no_less("without decay nothing bounds them: the norm doubles in the second half of the run "
                    "(factor at least 1.9)",
                    later, 1.9));
      }
    }
    out.pictures.push_back(growth);
  }

  // Whether the outward force still makes W longer by half in the second half of the run. Below 2 the norm
  // has arrived by then, except within a few thousandths of it.
  bool grows(const Surroundings& s, double eta) const {
    const std::vector<double> n = norms(s, Force::outward, eta, decay_, long_steps_);
    return n.back() > 1e99 || n.back() > 1.5 * n[n.size() / 2];
  }

  void large_steps(const Surroundings& s, Outcome& out, std::vector<Check>& unbounded,
                   std::vector<Check>& any) const {
    const double centre = 2 / decay_;
    double worst = 0, tightest = 1e300;
    std::int64_t agree = 0, all = 0;
    s.say(fmt::format("lambda {}, eta from {} to {}", decay_, centre / 2, centre + 1));
    for (double eta = centre / 2; eta <= centre + 1.001; eta += centre / 32) {
      const bool should = eta * decay_ >= 2;
      ++all;
      agree += grows(s, eta) == should ? 1 : 0;
      if (should) {
        any.push_back({fmt::format("eta {}, lambda {}: the norm stops growing", shown(eta), decay_),
                       grows(s, eta) ? "it grows" : "it stops", !grows(s, eta)});
        continue;
      }
      const std::vector<double> outward = norms(s, Force::outward, eta, decay_, long_steps_),
                                drifting = norms(s, Force::drifting, eta, decay_, long_steps_ / 4);
      const double bound = bound_of(eta, decay_), most = *std::max_element(outward.begin(), outward.end());
      worst = std::max({worst, most / bound, *std::max_element(drifting.begin(), drifting.end()) / bound});
      tightest = std::min(tightest, most / bound);
    }
    double low = centre / 2, high = centre * 1.5;
    for (int i = 0; i < 14; ++i) (grows(s, (low + high) / 2) ? high : low) = (low + high) / 2;
    out.measurements.push_back(expecting(
        measured("eta lambda from which the weights grow without end", high * decay_), 2, "closed form"));
    out.measurements.push_back(
        measured("largest ||W||_2 / (eta / (2 - eta lambda)), worst step size", worst));
    unbounded.push_back(near_expected("the weights grow without end from eta lambda = 2 on, to 0.5 %",
                                      high * decay_, 2, 0.005));
    unbounded.push_back(no_more("below, no run leaves eta / (2 - eta lambda) (largest norm / bound, to 1e-9)",
                                worst, 1 + 1e-9));
    unbounded.push_back(no_less(
        "under the outward force every run comes within 1 % of it (least norm / bound)", tightest, 0.99));
    unbounded.push_back(no_less("step sizes of the grid that do as the formula says",
                                100 * static_cast<double>(agree) / static_cast<double>(all), 100, "%"));
  }

  std::int64_t rows_ = 16, cols_ = 24, steps_ = 4000, long_steps_ = 800, own_steps_ = 1000;
  Update update_ = Update::polar;
  double lr_ = 0.05, decay_ = 0.0625;
};

}  // namespace

std::unique_ptr<Experiment> make_decay_bound() { return std::make_unique<DecayBound>(); }

}  // namespace spectrain::lab
