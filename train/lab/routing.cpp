#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/lab/judge.h"
#include "train/lab/routing_task.h"

namespace spectrain::lab {
namespace {

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
    out.measurements.push_back(expecting(measured("held-out error, " + row.way.name, held), row.value,
                                         "an independent implementation: " + row.expected));
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
