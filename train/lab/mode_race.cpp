#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/lab/experiment.h"
#include "train/lab/judge.h"
#include "train/lab/network.h"

// E1 to E3: how fast the singular modes of a deep linear network grow under gradient descent and under
// spectral descent (the exact polar factor of each gradient, without momentum).
//
//   loss = 1/2 ||M - W_L ... W_1||_F^2,  W_l = w0 I or small and random,  M = diag(s_k);  a_k = (W_L ...
//   W_1)_kk
//
// In continuous time and from aligned matrices a mode grows by itself:
//   gradient descent, L = 2:  t_k = ln(s_k / a0 - 1) / (2 s_k) to half of s_k, a0 = w0^2
//   spectral descent, any L:  a_k(t) = (w0 + t)^L for every mode until it is full; half at (s_k / 2)^(1/L) -
//   w0

namespace spectrain::lab {
namespace {

struct Trajectory {
  std::vector<std::vector<double>> strength;  // [step][mode]
  double lr = 0;
  // Interpolated time at which a mode first reaches `share` of its target; NaN: it did not.
  double time_to(std::size_t mode, double target) const {
    for (std::size_t t = 1; t < strength.size(); ++t) {
      const double before = strength[t - 1][mode], after = strength[t][mode];
      if (after < target) continue;
      return lr * (static_cast<double>(t) - 1 + (target - before) / (after - before));
    }
    return std::numeric_limits<double>::quiet_NaN();
  }
};

struct Race {
  std::int64_t layers = 2;
  std::vector<double> modes;
  double start = 0.01;  // w0, or the deviation of random matrices
  bool random = false;
  std::uint64_t seed = 1;
};

Trajectory run_race(Backend& backend, const Race& race, const GroupConfig& rule, double lr,
                    std::int64_t steps) {
  const auto n = static_cast<std::int64_t>(race.modes.size());
  const auto record = [&](Tape& t) {
    Value y = t.real_input("x", {n, n});
    for (std::int64_t l = 0; l < race.layers; ++l)
      y = t.linear(
          y, t.parameter("w" + std::to_string(l), {n, n}, Role::hidden, Initializer::normal(race.start)));
    return t.squared_error(y, t.real_input("y", {n, n}));
  };
  OptimizerConfig config;
  config.groups = {rule};
  Network net(backend, record, config, 1, race.seed);
  const auto N = static_cast<std::size_t>(n);
  std::vector<float> x(N * N, 0), y(N * N, 0);
  for (std::size_t k = 0; k < N; ++k) {
    x[k * N + k] = 1;
    y[k * N + k] = static_cast<float>(race.modes[k]);
  }
  net.training().set_input("x", std::span<const float>(x));
  net.training().set_input("y", std::span<const float>(y));
  if (!race.random) {
    std::vector<double> w(N * N, 0);
    for (std::size_t k = 0; k < N; ++k) w[k * N + k] = race.start;
    for (std::int64_t l = 0; l < race.layers; ++l) net.set("w" + std::to_string(l), w);
  }
  const auto product = [&](Tape& t) {
    Value v = t.real_input("x", {n, n});
    for (std::int64_t l = 0; l < race.layers; ++l)
      v = t.linear(v, t.parameter("w" + std::to_string(l), {n, n}, Role::hidden, Initializer::zeros()));
    return v;
  };
  Program& map = net.evaluation("product", product);
  map.set_input("x", std::span<const float>(x));
  Trajectory path;
  path.lr = lr;
  const auto look = [&] {
    map.forward();
    const std::vector<double> all = map.host_result();
    std::vector<double> strength;
    for (std::size_t k = 0; k < N; ++k) strength.push_back(all[k * N + k]);
    path.strength.push_back(std::move(strength));
  };
  look();
  for (std::int64_t s = 0; s < steps; ++s) {
    net.step();
    look();
  }
  return path;
}

GroupConfig descent(double lr) { return group({Role::hidden}, "sgd", {{"lr", text(lr)}}); }
GroupConfig spectral(double lr) {
  return group({Role::hidden}, "spectral_descent", {{"lr", text(lr)}, {"shape_scale", "none"}});
}
GroupConfig newton_schulz(double lr) {
  return group({Role::hidden}, "muon",
               {{"lr", text(lr)},
                {"momentum", "0"},
                {"nesterov", "false"},
                {"shape_scale", "none"},
                {"newton_schulz.coefficients", "keller"},
                {"newton_schulz.steps", "5"}});
}

double largest_error(const std::vector<double>& measured, const std::vector<double>& expected) {
  double worst = 0;
  for (std::size_t i = 0; i < measured.size(); ++i)
    worst = std::max(worst, std::isnan(measured[i]) ? INFINITY : std::abs(measured[i] / expected[i] - 1));
  return worst;
}

Series strength_of(const Trajectory& path, std::size_t mode, const std::string& name) {
  Series line{name, {}, {}};
  const std::size_t every = std::max<std::size_t>(1, path.strength.size() / 300);
  for (std::size_t t = 0; t < path.strength.size(); t += every) {
    line.x.push_back(path.lr * static_cast<double>(t));
    line.y.push_back(path.strength[t][mode]);
  }
  return line;
}

std::string percent(double share) { return fmt::format("{:.2f} %", 100 * share); }

// ------------------------------------------------------------------------------------------------ E1

class ModeRace final : public Experiment {
 public:
  std::string_view name() const override { return "mode-race"; }
  std::string_view title() const override {
    return "Which mode of a deep linear network is learned first, aligned start";
  }
  std::vector<Claim> claims() const override {
    const std::string remark =
        "The paper was read in its abstract and digests only; depth, modes and step sizes are this "
        "laboratory's.";
    return {
        {"e1.growth", "arXiv 2603.00742",
         "Spectral descent grows all modes of a deep linear network by the same absolute amount, where "
         "gradient descent "
         "learns the strong ones first.",
         "Half-times that do not follow sqrt(s/2) - w0, or strengths of modes that are not full and differ.",
         remark},
        {"e1.together", "in circulation", "Under Muon all modes are learned at the same time.",
         "Half-times of the modes that differ by more than 10 %.",
         "Equal absolute growth is not equal relative growth: weak modes are full first."}};
  }
  void describe(OptionVisitor& v) override {
    v.field("lr", &lr_, above_only(0), "of both rules");
    v.field("start", &start_, above_only(0), "w0: the matrices begin as w0 I");
    v.field("descent_steps", &descent_steps_, count_from(1), "of gradient descent");
    v.field("spectral_steps", &spectral_steps_, count_from(1), "of spectral descent");
    v.field("measured", &measured_, within(2, 8), "modes 8, 4, 2 ... that are measured");
  }
  Outcome run(const Surroundings& s) override;

 private:
  double lr_ = 1e-3, start_ = 0.01;
  std::int64_t descent_steps_ = 12000, spectral_steps_ = 4000, measured_ = 5;
};

Outcome ModeRace::run(const Surroundings& s) {
  Race race;
  race.start = start_;
  // Eight modes, for a matrix rule takes no smaller matrix; the weakest are not waited for.
  for (int k = 0; k < 8; ++k) race.modes.push_back(8 * std::pow(0.5, k));
  const auto modes = static_cast<std::size_t>(measured_);
  s.say("gradient descent");
  const Trajectory gd = run_race(s.backend, race, descent(lr_), lr_, descent_steps_);
  s.say("spectral descent");
  const Trajectory spec = run_race(s.backend, race, spectral(lr_), lr_, spectral_steps_);
  s.say("Newton-Schulz");
  const Trajectory ns = run_race(s.backend, race, newton_schulz(lr_), lr_, spectral_steps_);

  Outcome out;
  std::vector<double> gd_time, gd_law, spec_time, spec_law, ns_time;
  for (std::size_t k = 0; k < modes; ++k) {
    const double target = race.modes[k];
    gd_time.push_back(gd.time_to(k, target / 2));
    gd_law.push_back(std::log(target / (start_ * start_) - 1) / (2 * target));
    spec_time.push_back(spec.time_to(k, target / 2));
    spec_law.push_back(std::sqrt(target / 2) - start_);
    ns_time.push_back(ns.time_to(k, target / 2));
    const std::string mode = fmt::format("half-time of the mode s = {:g}, ", target);
    out.measurements.push_back(
        {mode + "gradient descent", gd_time[k], 0, 1, gd_law[k], "ln(s/a0 - 1) / 2s", ""});
    out.measurements.push_back(
        {mode + "spectral descent", spec_time[k], 0, 1, spec_law[k], "sqrt(s/2) - w0", ""});
    out.measurements.push_back(
        {mode + "five Newton-Schulz steps", ns_time[k], 0, 1, spec_law[k], "sqrt(s/2) - w0", ""});
  }
  // Strengths while no measured mode is full.
  const double full = std::sqrt(race.modes[modes - 1]) - start_;
  const auto at = static_cast<std::size_t>(std::lround(full / 2 / lr_));
  double least = INFINITY, most = 0;
  for (std::size_t k = 0; k < modes; ++k) {
    least = std::min(least, spec.strength[at][k]);
    most = std::max(most, spec.strength[at][k]);
  }
  const double law = std::pow(start_ + lr_ * static_cast<double>(at), 2);
  out.measurements.push_back(
      {fmt::format("strength of every mode at t = {:.3f}, spectral descent", lr_ * static_cast<double>(at)),
       (least + most) / 2, 0, 1, law, "(w0 + t)^2", ""});
  const double gd_error = largest_error(gd_time, gd_law), spec_error = largest_error(spec_time, spec_law),
               ns_error = largest_error(ns_time, spec_law);
  const bool reversed =
      std::is_sorted(spec_time.rbegin(), spec_time.rend()) && std::is_sorted(gd_time.begin(), gd_time.end());
  out.claims.push_back(
      {claims()[0],
       {{"half-times of gradient descent are within 1 % of ln(s/a0 - 1) / 2s", percent(gd_error),
         gd_error < 0.01},
        {"half-times of spectral descent are within 1 % of sqrt(s/2) - w0", percent(spec_error),
         spec_error < 0.01},
        {"modes that are not full have equal strengths to 4 digits",
         fmt::format("{:.6f} to {:.6f}", least, most), most / least - 1 < 1e-4},
        {"with Newton-Schulz half-times are within 35 % of that law", percent(ns_error), ns_error < 0.35},
        {"strong modes are first under gradient descent and last under spectral descent",
         reversed ? "so" : "not so", reversed}}});
  const auto [first, last] = std::minmax_element(spec_time.begin(), spec_time.end());
  out.claims.push_back(
      {claims()[1],
       {{"the half-times of all modes lie within 10 % under spectral descent",
         fmt::format("the slowest takes {:.2f} times as long as the fastest", *last / *first),
         *last / *first < 1.1}}});
  for (const auto& [title, path] : {std::pair{"Gradient descent", &gd}, {"Spectral descent", &spec}}) {
    Picture p{
        fmt::format("{}: strength of each mode", title), "time = steps x lr", "strength", false, false, {}};
    for (std::size_t k = 0; k < modes; ++k)
      p.series.push_back(strength_of(*path, k, fmt::format("s = {:g}", race.modes[k])));
    out.pictures.push_back(std::move(p));
  }
  return out;
}

// ------------------------------------------------------------------------------------------------ E2

class RandomModeRace final : public Experiment {
 public:
  std::string_view name() const override { return "mode-race-random"; }
  std::string_view title() const override { return "The same race from small random matrices"; }
  std::vector<Claim> claims() const override {
    return {{"e2.slopes", "arXiv 2603.00742, arXiv 2606.30509",
             "From small random matrices the time to learn a mode of strength s goes as 1/s under gradient "
             "descent and as "
             "sqrt(s) under Muon.",
             "Slopes of log time against log s outside -1 +- .15 and .5 +- .05.",
             "Setting of the published code of arXiv 2606.30509, figure 1."}};
  }
  void describe(OptionVisitor& v) override {
    v.field("width", &width_, within(8, 512), "rows and columns of both matrices");
    v.field("start", &start_, above_only(0), "deviation of the first matrices");
    v.field("spectral_lr", &spectral_lr_, above_only(0), "of spectral descent and of Newton-Schulz");
    v.field("descent_lr", &descent_lr_, above_only(0), "of gradient descent");
    v.field("steps", &steps_, count_from(101), "of each rule");
  }
  Outcome run(const Surroundings& s) override;

 private:
  std::int64_t width_ = 32, steps_ = 1000;
  double start_ = 5e-3, spectral_lr_ = 5e-3, descent_lr_ = 1.5e-2;
};

Outcome RandomModeRace::run(const Surroundings& s) {
  Race race;
  race.start = start_;
  race.random = true;
  race.seed = s.seed;
  for (std::int64_t k = 1; k <= width_; ++k) race.modes.push_back(10.0 / static_cast<double>(k));
  struct Runner {
    std::string name;
    GroupConfig rule;
    double lr;
    std::vector<double>
        expected;  // half-value steps of the modes 1, 2, 4, 8, 16, 32 by an independent implementation
    double low, high;
  };
  const std::vector<Runner> runners = {
      {"gradient descent", descent(descent_lr_), descent_lr_, {35, 63, 124, 225, 418, 850}, -1.15, -0.85},
      {"spectral descent", spectral(spectral_lr_), spectral_lr_, {444, 313, 222, 156, 110, 78}, 0.45, 0.55},
      {"five Newton-Schulz steps", newton_schulz(spectral_lr_), spectral_lr_, {}, 0.40, 0.60}};
  Outcome out;
  std::vector<Check> checks;
  Picture times{"Steps until a mode reaches half its strength", "singular value s", "steps", true, true, {}};
  for (const Runner& runner : runners) {
    s.say(runner.name);
    const Trajectory path = run_race(s.backend, race, runner.rule, 1, steps_);
    Series line{runner.name, {}, {}};
    std::size_t which = 0;
    for (std::size_t k = 1; k <= race.modes.size(); k *= 2, ++which) {
      const double t = path.time_to(k - 1, race.modes[k - 1] / 2);
      Measurement m{fmt::format("steps to half of mode {}, {}", k, runner.name), t, 0, 1, {}, "", "steps"};
      if (width_ == 32 && which < runner.expected.size()) {
        m.expected = runner.expected[which];
        m.expected_from = "an independent implementation, another draw of the matrices";
      }
      out.measurements.push_back(m);
      if (std::isnan(t)) continue;
      line.x.push_back(race.modes[k - 1]);
      line.y.push_back(t);
    }
    const double measured = log_slope(line.x, line.y);
    const bool all = line.x.size() == which;
    out.measurements.push_back(
        {fmt::format("slope of log time against log s, {}", runner.name), measured, 0, 1, {}, "", ""});
    checks.push_back(
        {fmt::format("the slope under {} lies in [{}, {}]", runner.name, runner.low, runner.high),
         fmt::format("{:.3f}{}", measured, all ? "" : ", not all modes got there"),
         all && measured >= runner.low && measured <= runner.high});
    times.series.push_back(line);
    if (&runner == &runners[2]) continue;
    const double flat = path.strength[100][0] / path.strength[100][7];
    const bool spectral_one = &runner == &runners[1];
    checks.push_back({fmt::format("after 100 steps of {} the first mode is {} the eighth", runner.name,
                                  spectral_one ? "less than 1.2 times" : "more than 50 times"),
                      fmt::format("{:.3g} times", flat), spectral_one ? flat < 1.2 : flat > 50});
  }
  out.claims.push_back({claims()[0], checks});
  out.pictures.push_back(times);
  out.notes.push_back(
      "Strengths are the diagonal of the product in the basis of the target, not its singular values.");
  return out;
}

// ------------------------------------------------------------------------------------------------ E3

class DepthRace final : public Experiment {
 public:
  std::string_view name() const override { return "mode-race-depth"; }
  std::string_view title() const override { return "The race in networks of 2, 3 and 4 layers"; }
  std::vector<Claim> claims() const override {
    return {{"e3.depth", "arXiv 2603.00742",
             "Equal growth under spectral descent holds at any depth: a mode is half learned at (s/2)^(1/L) "
             "- w0.",
             "Half-times more than 1 % away, or gradient descent at depth 3 without t proportional to 1/s.",
             "The law was derived here; the paper was read in part."}};
  }
  void describe(OptionVisitor& v) override {
    v.field("lr", &lr_, above_only(0), "of both rules");
    v.field("start", &start_, above_only(0), "w0: the matrices begin as w0 I");
    v.field("descent_steps", &descent_steps_, count_from(1), "of gradient descent");
    v.field("spectral_steps", &spectral_steps_, count_from(1), "of spectral descent");
  }
  Outcome run(const Surroundings& s) override;

 private:
  double lr_ = 1e-3, start_ = 0.1;
  std::int64_t descent_steps_ = 24000, spectral_steps_ = 2500;
};

Outcome DepthRace::run(const Surroundings& s) {
  Outcome out;
  std::vector<Check> checks;
  for (const std::int64_t layers : {2, 3, 4}) {
    Race race;
    race.start = start_;
    race.layers = layers;
    for (int k = 0; k < 8; ++k) race.modes.push_back(8 * std::pow(0.5, k));
    const std::size_t modes = 5;
    s.say(fmt::format("{} layers", layers));
    const Trajectory spec = run_race(s.backend, race, spectral(lr_), lr_, spectral_steps_);
    std::vector<double> time, law;
    for (std::size_t k = 0; k < modes; ++k) {
      time.push_back(spec.time_to(k, race.modes[k] / 2));
      law.push_back(std::pow(race.modes[k] / 2, 1.0 / static_cast<double>(layers)) - start_);
      out.measurements.push_back(
          {fmt::format("half-time of s = {:g}, {} layers, spectral descent", race.modes[k], layers), time[k],
           0, 1, law[k], "(s/2)^(1/L) - w0", ""});
    }
    const double error = largest_error(time, law);
    checks.push_back(
        {fmt::format("{} layers: half-times of spectral descent are within 1 % of (s/2)^(1/L) - w0", layers),
         percent(error), error < 0.01});
    if (layers != 3) continue;
    const Trajectory gd = run_race(s.backend, race, descent(lr_), lr_, descent_steps_);
    double worst = 0;
    for (std::size_t k = 0; k < modes; ++k) {
      const double scaled = gd.time_to(k, race.modes[k] / 2) * race.modes[k] * start_;  // in units of 1/w0
      out.measurements.push_back(
          {fmt::format("t s w0 of s = {:g}, 3 layers, gradient descent", race.modes[k]), scaled, 0, 1, 1.0,
           "t = w0^(2 - L) / ((L - 2) s)", ""});
      worst = std::max(worst, std::isnan(scaled) ? INFINITY : std::abs(scaled - 1));
    }
    checks.push_back(
        {"3 layers: gradient descent needs t s = 1/w0 within 15 %", percent(worst), worst < 0.15});
  }
  out.claims.push_back({claims()[0], checks});
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_mode_race() { return std::make_unique<ModeRace>(); }
std::unique_ptr<Experiment> make_mode_race_random() { return std::make_unique<RandomModeRace>(); }
std::unique_ptr<Experiment> make_mode_race_depth() { return std::make_unique<DepthRace>(); }

}  // namespace spectrain::lab
