#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "train/lab/experiment.h"
#include "train/lab/network.h"

// E4 and E5: the routing task. Domains of inputs and of outputs share one linear network, encoder - hidden -
// decoder; of all pairs of an input and an output domain some are trained, the others held out. All trained
// pairs ask for the same map, so the simple solution is a shared one, and it also answers the pairs that were
// never trained.
//
//   y = D H E x,  x [domains items] one-hot in domain and item,  loss = mean squared error of each trained
//   pair, summed

namespace spectrain::lab {
namespace {

constexpr std::int64_t kDomains = 7, kItems = 4, kOutputs = 7;
constexpr std::int64_t kInputs = kDomains * kItems, kTargets = kDomains * kOutputs;

// Y^T of one domain, [outputs, items]: rows of all items, of the first two, of the last two, and of each
// alone (Saxe, Sodhani, Lewallen 2022). Singular values 13.60, 6.40, 3, 3.
std::vector<double> one_map() {
  std::vector<double> y;
  for (const auto& row : {std::array{6, 6, 6, 6},
                          {4, 4, 0, 0},
                          {0, 0, 4, 4},
                          {3, 0, 0, 0},
                          {0, 3, 0, 0},
                          {0, 0, 3, 0},
                          {0, 0, 0, 3}})
    y.insert(y.end(), row.begin(), row.end());
  return y;
}

// Whether input domain i trains output domain o: the `trained` domains from i - 1 on.
bool is_trained(std::int64_t i, std::int64_t o, std::int64_t trained) {
  return (o - (i - 1) + 2 * kDomains) % kDomains < trained;
}

struct Task {
  std::int64_t hidden = 64, trained = 4;
  double gain = 0.2;   // of the first, orthogonal matrices
  bool joint = true;   // one encoder and one decoder matrix for all domains, or one for each
  bool middle = true;  // the shared hidden matrix
};

struct Errors {
  double trained = 0, held_out = 0;  // mean squared error
};

// Orthonormal columns or rows times gain, from random numbers that the backend draws.
std::vector<double> orthogonal(Backend& backend, std::int64_t rows, std::int64_t cols, double gain,
                               RandomKey key) {
  const std::int64_t tall = std::max(rows, cols), thin = std::min(rows, cols);
  const auto memory = backend.allocate(static_cast<std::size_t>(tall * thin) * 4, "a random matrix");
  const Tensor a = memory->view(DType::f32, {tall, thin});
  backend.fill_normal(a, key, 0, 1);
  backend.orthonormal_columns(a);
  std::vector<float> q(static_cast<std::size_t>(tall * thin));
  backend.copy_to_host(q.data(), a);
  std::vector<double> w(q.size());
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < cols; ++c)
      w[static_cast<std::size_t>(r * cols + c)] =
          gain * static_cast<double>(q[static_cast<std::size_t>(rows >= cols ? r * cols + c : c * rows + r)]);
  return w;
}

class Routing {
 public:
  Routing(Backend& backend, const Task& task, const OptimizerConfig& rule, std::uint64_t seed)
      : backend_(backend),
        task_(task),
        // Of the sum of the pairs' means over their items and outputs: d/dy (y - t)^2 / 28 = 2 (y - t) / 28.
        net_(
            backend, [&](Tape& t) { return loss(t); }, rule, 2.0 / (kItems * kOutputs), seed) {
    std::uint64_t stream = 100;
    for (const auto& [name, shape] : shapes())
      net_.set(name, orthogonal(backend, shape[0], shape[1], task.gain, {seed, stream++}));
    set_data(net_.training(), true);
    set_data(map(), false);
  }

  double step(double lr_factor) { return net_.step(lr_factor) * 2 / (kItems * kOutputs); }

  Errors errors() {
    const std::vector<double> y = outputs();
    Errors e;
    double counts[2] = {};
    const std::vector<double> wanted = one_map();
    for (std::int64_t r = 0; r < kInputs; ++r)
      for (std::int64_t c = 0; c < kTargets; ++c) {
        const double target = wanted[static_cast<std::size_t>(c % kOutputs * kItems + r % kItems)];
        const double d = y[static_cast<std::size_t>(r * kTargets + c)] - target;
        const bool trained = is_trained(r / kItems, c / kOutputs, task_.trained);
        (trained ? e.trained : e.held_out) += d * d;
        counts[trained] += 1;
      }
    e.trained /= counts[1];
    e.held_out /= std::max(1.0, counts[0]);
    return e;
  }
  // Singular values, descending: of the map from inputs to outputs, and of the hidden matrix.
  std::vector<double> map_spectrum() { return spectrum(outputs(), kInputs, kTargets); }
  std::vector<double> hidden_spectrum() { return spectrum(net_.get("hidden"), task_.hidden, task_.hidden); }

 private:
  std::vector<std::pair<std::string, Shape>> shapes() const {
    std::vector<std::pair<std::string, Shape>> list;
    if (task_.joint) {
      list.emplace_back("encoder", Shape{task_.hidden, kInputs});
      list.emplace_back("decoder", Shape{kTargets, task_.hidden});
    } else {
      for (std::int64_t d = 0; d < kDomains; ++d) {
        list.emplace_back(fmt::format("encoder.{}", d), Shape{task_.hidden, kItems});
        list.emplace_back(fmt::format("decoder.{}", d), Shape{kOutputs, task_.hidden});
      }
    }
    if (task_.middle) list.emplace_back("hidden", Shape{task_.hidden, task_.hidden});
    return list;
  }
  Value weight(Tape& t, const std::string& name) const {
    for (const auto& [own, shape] : shapes())
      if (own == name) return t.parameter(name, shape, Role::hidden, Initializer::zeros());
    throw std::logic_error("no matrix " + name);
  }
  // y [inputs, targets], row r for the item r % items of the domain r / items.
  Value forward(Tape& t) const {
    const Value x = t.real_input("x", {kInputs, kInputs});
    Value h;
    if (task_.joint) {
      h = t.linear(x, weight(t, "encoder"));
    } else {
      for (std::int64_t d = 0; d < kDomains; ++d) {
        const Value own = t.linear(t.columns(x, d * kItems, kItems), weight(t, fmt::format("encoder.{}", d)));
        h = h ? t.add(h, own) : own;
      }
    }
    if (task_.middle) h = t.linear(h, weight(t, "hidden"));
    if (task_.joint) return t.linear(h, weight(t, "decoder"));
    Value y = t.real_input("zero", {kInputs, kTargets});
    for (std::int64_t d = 0; d < kDomains; ++d)
      y = t.with_columns(y, d * kOutputs, t.linear(h, weight(t, fmt::format("decoder.{}", d))));
    return y;
  }
  Value loss(Tape& t) const {
    return t.squared_error(forward(t), t.real_input("y", {kInputs, kTargets}),
                           t.real_input("mask", {kInputs, kTargets}));
  }
  Program& map() {
    return net_.evaluation("map", [this](Tape& t) { return forward(t); });
  }
  std::vector<double> outputs() {
    map().forward();
    return map().host_result();
  }
  void set_data(Program& program, bool training) const {
    std::vector<float> x(kInputs * kInputs, 0), y(kInputs * kTargets), mask(kInputs * kTargets);
    const std::vector<double> wanted = one_map();
    for (std::int64_t r = 0; r < kInputs; ++r) {
      x[static_cast<std::size_t>(r * kInputs + r)] = 1;
      for (std::int64_t c = 0; c < kTargets; ++c) {
        const auto at = static_cast<std::size_t>(r * kTargets + c);
        y[at] = static_cast<float>(wanted[static_cast<std::size_t>(c % kOutputs * kItems + r % kItems)]);
        mask[at] = is_trained(r / kItems, c / kOutputs, task_.trained) ? 1.0f : 0.0f;
      }
    }
    program.set_input("x", std::span<const float>(x));
    if (!task_.joint) {
      const std::vector<float> zero(kInputs * kTargets, 0);
      program.set_input("zero", std::span<const float>(zero));
    }
    if (!training) return;
    program.set_input("y", std::span<const float>(y));
    program.set_input("mask", std::span<const float>(mask));
  }
  std::vector<double> spectrum(const std::vector<double>& a, std::int64_t rows, std::int64_t cols) const {
    const std::int64_t r = std::min(rows, cols);
    const auto memory =
        backend_.allocate(static_cast<std::size_t>(rows * cols + r + 64) * 4, "a matrix and its spectrum");
    const Tensor m = memory->view(DType::f32, {rows, cols});
    const Tensor values =
        memory->view(DType::f32, {r}, (static_cast<std::size_t>(rows * cols) * 4 + 63) / 64 * 64);
    const std::vector<float> narrow(a.begin(), a.end());
    backend_.copy_from_host(m, narrow.data());
    backend_.svd(m, {}, values, {});
    std::vector<float> s(static_cast<std::size_t>(r));
    backend_.copy_to_host(s.data(), values);
    return {s.begin(), s.end()};
  }

  Backend& backend_;
  Task task_;
  Network net_;
};

std::int64_t above(const std::vector<double>& spectrum, double share) {
  return std::count_if(spectrum.begin(), spectrum.end(),
                       [&](double s) { return s > share * spectrum.front(); });
}

// A way to train, as E4's table has it.
struct Way {
  std::string name;
  std::string rule;
  Settings settings;
  bool joint = true;
  bool decays = true;  // lr to zero, linearly
  std::int64_t steps = 0;
};

OptimizerConfig config_of(const Way& way) {
  OptimizerConfig c;
  c.groups = {group({Role::hidden}, way.rule, way.settings)};
  c.groups[0].finish.smallest_side = 2;  // matrices of one domain are [64,4] and [7,64]
  c.steps = way.steps;
  return c;
}

struct Trained {
  Errors first, last;
  double least_held_out = 0;
  std::int64_t map_rank = 0, hidden_rank = 0;
  Series trained{"trained pairs", {}, {}}, held_out{"held-out pairs", {}, {}};
};

Trained train(Backend& backend, const Task& task, const Way& way, std::uint64_t seed) {
  Task own = task;
  own.joint = way.joint;
  Routing routing(backend, own, config_of(way), seed);
  Trained t;
  t.first = routing.errors();
  t.least_held_out = t.first.held_out;
  const std::int64_t every = std::max<std::int64_t>(1, way.steps / 100);
  for (std::int64_t s = 0; s < way.steps; ++s) {
    if (s % every == 0) {
      const Errors e = routing.errors();
      t.least_held_out = std::min(t.least_held_out, e.held_out);
      for (auto [line, y] : {std::pair{&t.trained, e.trained}, {&t.held_out, e.held_out}}) {
        line->x.push_back(static_cast<double>(s));
        line->y.push_back(y);
      }
    }
    routing.step(way.decays ? 1 - static_cast<double>(s) / static_cast<double>(way.steps) : 1);
  }
  t.last = routing.errors();
  t.map_rank = above(routing.map_spectrum(), 0.05);
  if (own.middle) t.hidden_rank = above(routing.hidden_spectrum(), 0.1);
  return t;
}

Way descent_way(std::int64_t steps) {
  return {"gradient descent, lr 0.02", "sgd", {{"lr", "0.02"}}, true, false, steps};
}
Way spectral_way(std::int64_t steps, double lr, bool joint) {
  return {joint ? "spectral descent, joint matrices" : "spectral descent, a matrix for each domain",
          "spectral_descent",
          {{"lr", text(lr)}, {"shape_scale", "none"}},
          joint,
          true,
          steps};
}
Way muon_way(std::int64_t steps, double lr, bool joint) {
  return {joint ? "Muon (Newton-Schulz, momentum 0.9), joint matrices"
                : "Muon (Newton-Schulz), a matrix for each domain",
          "muon",
          {{"lr", text(lr)},
           {"shape_scale", "none"},
           {"momentum", joint ? "0.9" : "0"},
           {"nesterov", joint ? "true" : "false"},
           {"newton_schulz.coefficients", "keller"},
           {"newton_schulz.steps", "5"}},
          joint,
          true,
          steps};
}

struct Mean {
  double value = 0, spread = 0;
};
Mean mean_of(const std::vector<double>& x) {
  Mean m;
  for (const double v : x) m.value += v / static_cast<double>(x.size());
  for (const double v : x) m.spread += (v - m.value) * (v - m.value);
  m.spread = x.size() > 1 ? std::sqrt(m.spread / static_cast<double>(x.size() - 1)) : 0;
  return m;
}

// ------------------------------------------------------------------------------------------------ E4

class RoutingTask final : public Experiment {
 public:
  std::string_view name() const override { return "routing"; }
  std::string_view title() const override {
    return "Whether untrained routes are learned along with trained ones";
  }
  std::vector<Claim> claims() const override {
    const std::string remark =
        "That the paper uses this variant of the routing task was inferred from its digests; domain count, "
        "step sizes "
        "and the layout of the matrices are from the task's published ancestor.";
    return {
        {"e4.bias", "arXiv 2603.00742",
         "Gradient descent finds the shared low-rank solution of the routing task and so solves the "
         "untrained routes; "
         "spectral descent fits the trained ones and does not.",
         "Held-out error of gradient descent above 1 % of the first, or of spectral descent below half of "
         "it.",
         remark},
        {"e4.muon", "in circulation", "Muon memorises where gradient descent generalises.",
         "A Muon run that generalises on the same task.",
         "Which matrices are orthogonalised decides: with one matrix for each domain Muon generalises too."}};
  }
  void describe(OptionVisitor& v) override {
    v.field("descent_steps", &descent_steps_, count_from(10), "of gradient descent");
    v.field("spectral_steps", &spectral_steps_, count_from(10), "of the others");
    v.field("spectral_lr", &spectral_lr_, above_only(0), "their first learning rate; it falls to 0");
    v.field("seeds", &seeds_, within(1, 100), "of gradient descent and joint spectral descent");
  }
  Outcome run(const Surroundings& s) override;

 private:
  std::int64_t descent_steps_ = 1000, spectral_steps_ = 3000, seeds_ = 3;
  double spectral_lr_ = 0.003;
};

Outcome RoutingTask::run(const Surroundings& s) {
  struct Row {
    Way way;
    std::int64_t seeds;
    std::string expected;  // of held-out error: the independent implementation's
    double value;
  };
  const std::vector<Row> rows = {
      {descent_way(descent_steps_), seeds_, "5e-5 to 2e-4", 1e-4},
      {spectral_way(spectral_steps_, spectral_lr_, true), seeds_, "18.1 to 18.2", 18.17},
      {muon_way(spectral_steps_, spectral_lr_, true), 1, "17.6", 17.6},
      {spectral_way(spectral_steps_, spectral_lr_, false), 1, "0.059", 0.059},
      {muon_way(spectral_steps_, spectral_lr_, false), 1, "0.036", 0.036}};
  Outcome out;
  std::vector<std::vector<Trained>> all;
  for (const Row& row : rows) {
    s.say(row.way.name);
    all.emplace_back();
    std::vector<double> held;
    for (std::int64_t k = 0; k < row.seeds; ++k) {
      all.back().push_back(train(s.backend, Task{}, row.way, s.seed + static_cast<std::uint64_t>(k)));
      held.push_back(all.back().back().last.held_out);
    }
    const Mean m = mean_of(held);
    out.measurements.push_back({"held-out error, " + row.way.name, m.value, m.spread,
                                static_cast<int>(row.seeds), row.value,
                                "an independent implementation: " + row.expected, ""});
    out.measurements.push_back(
        {"trained error, " + row.way.name, all.back()[0].last.trained, 0, 1, {}, "", ""});
    out.measurements.push_back({"singular values of the map above 5 %, " + row.way.name,
                                static_cast<double>(all.back()[0].map_rank),
                                0,
                                1,
                                {},
                                "",
                                ""});
    out.measurements.push_back({"singular values of the hidden matrix above 10 %, " + row.way.name,
                                static_cast<double>(all.back()[0].hidden_rank),
                                0,
                                1,
                                {},
                                "",
                                ""});
  }
  const double first = all[0][0].first.held_out;
  out.measurements.push_back(
      {"held-out error before training", first, 0, 1, 8.71, "an independent implementation", ""});
  double descent_worst = 0, spectral_best = INFINITY, spectral_trained = 0;
  std::int64_t rank = 0, hidden = 1 << 20;
  for (const Trained& t : all[0]) {
    descent_worst = std::max(descent_worst, t.last.held_out);
    rank = std::max(rank, t.map_rank);
  }
  for (const Trained& t : all[1]) {
    spectral_best = std::min(spectral_best, t.least_held_out);
    spectral_trained = std::max(spectral_trained, t.last.trained);
    hidden = std::min(hidden, t.hidden_rank);
  }
  out.claims.push_back(
      {claims()[0],
       {{"gradient descent leaves less than 1 % of the first held-out error",
         fmt::format("{:.2g} of {:.3g}", descent_worst, first), descent_worst < 0.01 * first},
        {"its map has 4 singular values above 5 % of the largest", fmt::format("{}", rank), rank == 4},
        {"spectral descent on joint matrices fits the trained pairs below 1e-6",
         fmt::format("{:.2g}", spectral_trained), spectral_trained < 1e-6},
        {"and its held-out error is never below half of the first",
         fmt::format("{:.3g} at least", spectral_best), spectral_best > 0.5 * first},
        {"its hidden matrix has 20 or more singular values above 10 %", fmt::format("{}", hidden),
         hidden >= 20}}});
  const double own_spectral = all[3][0].last.held_out, own_muon = all[4][0].last.held_out;
  out.claims.push_back(
      {claims()[1],
       {{"spectral descent with a matrix for each domain keeps more than 10 % of the first held-out error",
         fmt::format("{:.3g} of {:.3g}", own_spectral, first), own_spectral > 0.1 * first},
        {"so does Muon with a matrix for each domain", fmt::format("{:.3g} of {:.3g}", own_muon, first),
         own_muon > 0.1 * first}}});
  Picture p{"Error on held-out routes", "steps", "mean squared error", false, true, {}};
  for (std::size_t i = 0; i < rows.size(); ++i) {
    Series line = all[i][0].held_out;
    line.name = rows[i].way.name;
    p.series.push_back(line);
  }
  out.pictures.push_back(p);
  return out;
}

// ------------------------------------------------------------------------------------------------ E5

class RoutingAblations final : public Experiment {
 public:
  std::string_view name() const override { return "routing-ablations"; }
  std::string_view title() const override {
    return "The routing task with other numbers of routes and other first sizes";
  }
  std::vector<Claim> claims() const override {
    return {{"e5.routes", "arXiv 2603.00742",
             "Spectral descent on joint matrices fails on untrained routes however many routes are trained.",
             "A number of trained routes with a held-out error below the first.",
             "A sweep of this laboratory's."},
            {"e5.gain", "in circulation",
             "The simplicity bias of gradient descent holds whatever the initialisation.",
             "A held-out error that grows with the size of the first matrices.",
             "Control: a network that starts large is in the lazy regime and loses the bias."}};
  }
  void describe(OptionVisitor& v) override {
    v.field("descent_steps", &descent_steps_, count_from(10), "of gradient descent");
    v.field("spectral_steps", &spectral_steps_, count_from(10), "of spectral descent");
    v.field("spectral_lr", &spectral_lr_, above_only(0), "its first learning rate; it falls to 0");
    v.field("routes", &routes_, within(2, 6), "numbers of trained outputs for each input");
  }
  Outcome run(const Surroundings& s) override;

 private:
  std::int64_t descent_steps_ = 1000, spectral_steps_ = 3000;
  double spectral_lr_ = 0.003;
  std::vector<std::int64_t> routes_ = {2, 3, 4, 5, 6};
};

Outcome RoutingAblations::run(const Surroundings& s) {
  const std::vector<double> descent_known = {3.95, 5e-4, 5e-5, 9e-6, 5e-6},
                            joint_known = {11.0, 15.0, 18.2, 29.7, 102},
                            own_known = {5.92, .89, .059, .013, .004};
  Outcome out;
  std::vector<Check> checks;
  Picture p{"Error on held-out routes against the number of trained ones",
            "trained outputs for each input",
            "mean squared error",
            false,
            true,
            {{"gradient descent", {}, {}},
             {"spectral descent, joint", {}, {}},
             {"spectral descent, a matrix for each domain", {}, {}}}};
  for (const std::int64_t routes : routes_) {
    s.say(fmt::format("{} routes", routes));
    Task task;
    task.trained = routes;
    const Way ways[] = {descent_way(descent_steps_), spectral_way(spectral_steps_, spectral_lr_, true),
                        spectral_way(spectral_steps_, spectral_lr_, false)};
    double first = 0, held[3] = {};
    for (int i = 0; i < 3; ++i) {
      const Trained t = train(s.backend, task, ways[i], s.seed);
      first = t.first.held_out;
      held[i] = t.last.held_out;
      const auto at = static_cast<std::size_t>(routes - 2);
      out.measurements.push_back({fmt::format("held-out error with {} routes, {}", routes, ways[i].name),
                                  held[i], 0, 1,
                                  (i == 0   ? descent_known
                                   : i == 1 ? joint_known
                                            : own_known)[at],
                                  "an independent implementation", ""});
      p.series[static_cast<std::size_t>(i)].x.push_back(static_cast<double>(routes));
      p.series[static_cast<std::size_t>(i)].y.push_back(held[i]);
    }
    checks.push_back(
        {fmt::format("{} routes: joint spectral descent ends above the first held-out error", routes),
         fmt::format("{:.3g} against {:.3g}", held[1], first), held[1] > first});
  }
  out.claims.push_back({claims()[0], checks});
  out.pictures.push_back(p);
  const std::vector<double> gains = {0.05, 0.2, 0.5, 1.0}, known = {2e-8, 5e-5, 6e-3, .17};
  std::vector<double> held;
  for (std::size_t i = 0; i < gains.size(); ++i) {
    s.say(fmt::format("first matrices of size {}", gains[i]));
    Task task;
    task.gain = gains[i];
    // Small matrices need longer to leave their plateau.
    held.push_back(train(s.backend, task, descent_way(4 * descent_steps_), s.seed).last.held_out);
    out.measurements.push_back(
        {fmt::format("held-out error of gradient descent from matrices of size {}", gains[i]), held.back(), 0,
         1, known[i], "an independent implementation", ""});
  }
  const bool grows = std::is_sorted(held.begin(), held.end());
  out.claims.push_back(
      {claims()[1],
       {{"the held-out error does not grow with the size of the first matrices",
         fmt::format("{:.1g}, {:.1g}, {:.1g}, {:.1g}", held[0], held[1], held[2], held[3]), !grows}}});
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_routing() { return std::make_unique<RoutingTask>(); }
std::unique_ptr<Experiment> make_routing_ablations() { return std::make_unique<RoutingAblations>(); }

}  // namespace spectrain::lab
