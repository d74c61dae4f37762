#include "train/lab/routing_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

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

OptimizerConfig config_of(const Way& way) {
  OptimizerConfig c;
  c.groups = {group({Role::hidden}, way.rule, way.settings)};
  c.groups[0].finish.smallest_side = 2;  // matrices of one domain are [64,4] and [7,64]
  c.steps = way.steps;
  return c;
}

}  // namespace

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

}  // namespace spectrain::lab
