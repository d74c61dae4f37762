#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/own_rule.h"
#include "train/lab/quadratic.h"
#include "train/lab/update.h"

// How large may one step of W -= eta U V^T be before the loss rises? On f = 1/2 tr(D^T A D B) with G = A D B:
//
//   exactly     eta* = 2 <G, O> / <O, A O B>,   O = U V^T
//   the bound   (2 / lambda_max) mean sigma(G)     mean over the rank, since <G, O> = ||G||_* and ||O||_F^2 =
//   rank
//
// and for gradient descent 2 / lambda_max. The exact threshold is found without either formula, by bisection.

namespace spectrain::lab {
namespace {

struct Conditioning {
  double a, b;
  double over_bound, mean_sigma;  // as an independent implementation measured them
};
constexpr Conditioning kSettings[] = {
    {1, 1, 1.000, 5.74}, {100, 1, 4.39, 1.38}, {1, 100, 2.94, 1.54}, {100, 100, 8.98, 0.40}};

// The largest eta with f(D - eta O) < f(D), to the last bits: f along a line is a parabola.
double threshold(const KroneckerQuadratic& f, const Matrix& d, const Matrix& direction) {
  const double start = f.value(d);
  const auto descends = [&](double eta) {
    Matrix moved = d;
    add_scaled(moved, -eta, direction);
    return f.value(moved) < start;
  };
  double low = 0, high = 1;
  while (descends(high) && high < 1e12) high *= 2;
  for (int i = 0; i < 60; ++i) (descends((low + high) / 2) ? low : high) = (low + high) / 2;
  return (low + high) / 2;
}

struct Draws {
  std::vector<double> over_exact, over_bound, mean_sigma, closer, own;
};

Draws draws_of(const Conditioning& setting, std::int64_t rows, std::int64_t cols, int count, Update update,
               const Surroundings& s) {
  const KroneckerQuadratic f(rows, cols, setting.a, setting.b);
  const auto rank = static_cast<double>(std::min(rows, cols));
  Draws draws;
  for (int k = 0; k < count; ++k) {
    const Matrix d =
        gaussian(rows, cols, key_of(s.seed, "distance to the optimum", static_cast<std::uint64_t>(k)));
    const Matrix g = f.gradient(d);
    const Matrix o = updated(update, g);
    const double mean_sigma = polar(g).nuclear / rank;
    const double exact = 2 * inner(g, o) / f.curvature(o), bound = 2 * mean_sigma;
    const double found = threshold(f, d, o);
    draws.over_exact.push_back(found / exact);
    draws.over_bound.push_back(found / bound);
    draws.mean_sigma.push_back(mean_sigma);
    draws.closer.push_back(polar(f.gradient(scaled(0.1, d))).nuclear / rank);
    // The program's own rule at 1 % below and above the threshold: 1 when the loss falls and rises.
    double values[2];
    for (int side = 0; side < 2; ++side) {
      OwnRule rule(s.backend, plain_spectral_descent(), d);
      rule.step(g, found * (side == 0 ? 0.99 : 1.01));
      values[side] = f.value(rule.weight());
    }
    draws.own.push_back(values[0] < f.value(d) && values[1] > f.value(d) ? 1 : 0);
  }
  return draws;
}

class OneStepThreshold final : public Experiment {
 public:
  std::string_view name() const override { return "one-step-threshold"; }
  std::string_view title() const override { return "The largest step that lowers the loss, on a quadratic"; }

  std::vector<Claim> claims() const override {
    return {
        {"e7.threshold", "arXiv 2605.13079",
         "One step of Muon lowers the loss whenever its size is below (2 / lambda_max) times the mean "
         "singular value of the gradient.",
         "A draw in which a smaller step raises the loss, or a curvature of one size in all directions in "
         "which the bound is not met exactly.",
         "The paper was read in part; the bound is from its abstract and a survey of it, the exact threshold "
         "2 <G, O> / <O, H O> is derived here."},
        {"e7.larger", "in circulation", "Muon tolerates larger learning rates than gradient descent.",
         "The ratio of the two thresholds, the mean singular value of the gradient, is below 1 somewhere: "
         "the two learning rates have different units.",
         ""},
    };
  }

  void describe(OptionVisitor& v) override {
    v.field("rows", &rows_, within(1, 1000), "of the matrix");
    v.field("cols", &cols_, within(1, 1000), "of the matrix");
    describe_update(v, update_);
    v.field("draws", &draws_, within(1, 10000), "Gaussian matrices per setting");
  }

  Outcome run(const Surroundings& s) override {
    Outcome out;
    std::vector<Check> bound, larger;
    double worst_exact = 0, worst_bound = 1e300, own = 1, least = 1e300, least_closer = 1e300;
    for (const Conditioning& setting : kSettings) {
      s.say(fmt::format("cond(A) = {}, cond(B) = {}", setting.a, setting.b));
      const Draws d = draws_of(setting, rows_, cols_, draws_, update_, s);
      const std::string where = fmt::format("cond(A) = {}, cond(B) = {}", setting.a, setting.b);
      out.measurements.push_back(
          expecting(measured("threshold / exact formula, " + where, d.over_exact), 1, "2 <G, O> / <O, H O>"));
      out.measurements.push_back(published(measured("threshold / bound, " + where, d.over_bound),
                                           setting.over_bound, as_published()));
      out.measurements.push_back(
          published(measured("Muon's bound / gradient descent's, " + where, d.mean_sigma), setting.mean_sigma,
                    as_published()));
      for (const double x : d.over_exact) worst_exact = std::max(worst_exact, std::abs(x - 1));
      if (setting.a > 1 || setting.b > 1)
        worst_bound = std::min(worst_bound, *std::min_element(d.over_bound.begin(), d.over_bound.end()));
      else
        bound.push_back(near_expected("with one curvature everywhere the bound is the threshold, to 1e-6",
                                      mean_of(d.over_bound), 1, 1e-6));
      own = std::min(own, mean_of(d.own));
      least = std::min(least, mean_of(d.mean_sigma));
      least_closer = std::min(least_closer, mean_of(d.closer));
    }
    bound.push_back(
        no_more("the threshold is that of the exact formula in every draw, to 1e-6", worst_exact, 1e-6));
    bound.push_back(no_less(
        "the threshold is at or above the bound in every draw elsewhere (ratio at least 1)", worst_bound, 1));
    bound.push_back(
        no_less("the program's spectral_descent lowers the loss 1 % below the threshold and raises it 1 % "
                "above, in every draw",
                100 * own, 100, "% of the draws"));
    larger.push_back(no_less("the ratio of the bounds is at least 1 in every setting", least, 1));
    larger.push_back(no_less("it still is at a tenth of the distance to the optimum", least_closer, 1));
    out.measurements.push_back(
        measured("least ratio of the bounds at a tenth of the distance", least_closer));
    const std::vector<Claim> all = claims();
    out.claims = {{all[0], bound}, {all[1], larger}};
    out.notes.push_back(
        "The ratio of the thresholds shrinks with the gradient and is 0 at the optimum: learning rates of "
        "Muon and of gradient descent cannot be compared as numbers.");
    return out;
  }

 private:
  bool as_published() const { return rows_ == 24 && cols_ == 40 && update_ == Update::polar; }

  std::int64_t rows_ = 24, cols_ = 40;
  int draws_ = 20;
  Update update_ = Update::polar;
};

}  // namespace

std::unique_ptr<Experiment> make_one_step_threshold() { return std::make_unique<OneStepThreshold>(); }

}  // namespace spectrain::lab
