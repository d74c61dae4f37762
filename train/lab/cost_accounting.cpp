#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "optim/newton_schulz.h"
#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/own_rule.h"

// What Muon costs beside AdamW: operations, bytes and seconds.
//
//   Newton-Schulz, T steps on [m,n], m <= n    T (4 m^2 n + 2 m^3) FLOPs with full products,
//                                              T (3 m^2 n + m^3) where symmetric ones are computed by half
//   a training step of a matrix on B tokens    6 m n B
//
// so that for square matrices the share is T d / B, and less for the others.

namespace spectrain::lab {
namespace {

struct Size {
  std::int64_t rows, cols;
};
// The filters that airbench94 gives to Muon, as [out, in * 9]; 118.1M multiplications an image, batches of
// 2000.
constexpr Size kConvolutions[] = {{64, 216}, {64, 576}, {256, 576}, {256, 2304}, {256, 2304}, {256, 2304}};
constexpr double kConvolutionStep = 2 * 118.1e6 * 3 * 2000;
constexpr double kTokens = 524288;

std::vector<Size> layer_of(std::int64_t d) {
  return {{d, d}, {d, d}, {d, d}, {d, d}, {4 * d, d}, {d, 4 * d}};  // q, k, v, projection, mlp
}

double full_flops(const Size& s, double steps) {
  const auto m = static_cast<double>(std::min(s.rows, s.cols)),
             n = static_cast<double>(std::max(s.rows, s.cols));
  return steps * (4 * m * m * n + 2 * m * m * m);
}
double half_flops(const Size& s, double steps) {
  const auto m = static_cast<double>(std::min(s.rows, s.cols)),
             n = static_cast<double>(std::max(s.rows, s.cols));
  return steps * (3 * m * m * n + m * m * m);
}

std::vector<ParameterInfo> parameters_of(const std::vector<Size>& sizes, int layers) {
  std::vector<ParameterInfo> infos;
  for (int layer = 0; layer < layers; ++layer)
    for (const Size& s : sizes) {
      ParameterInfo info;
      info.name = fmt::format("h.{}", infos.size());
      info.shape = {s.rows, s.cols};
      info.logical_rows = s.rows;
      infos.push_back(info);
    }
  return infos;
}

// The least of five times, seconds: other programs may be running.
template <class Body>
double seconds_of(Backend& backend, const Body& body) {
  double least = 1e300;
  for (int i = 0; i < 5; ++i) {
    backend.synchronize();
    const auto start = std::chrono::steady_clock::now();
    body();
    backend.synchronize();
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return least;
}

// A device matrix with its memory.
class Held {
 public:
  Held(Backend& backend, std::int64_t rows, std::int64_t cols)
      : buffer_(backend.allocate(static_cast<std::size_t>(rows * cols) * size_of(backend.master()),
                                 "laboratory")),
        tensor(buffer_->view(backend.master(), {rows, cols})) {}
  void fill(Backend& backend, const Matrix& m) const {
    if (tensor.dtype == DType::f64) return backend.copy_from_host(tensor, m.a.data());
    const std::vector<float> narrow(m.a.begin(), m.a.end());
    backend.copy_from_host(tensor, narrow.data());
  }

 private:
  std::unique_ptr<Buffer> buffer_;

 public:
  Tensor tensor;
};

double newton_schulz_seconds(Backend& backend, const std::vector<Size>& sizes, DType precision,
                             std::uint64_t seed) {
  double total = 0;
  for (const Size& s : sizes) {
    const Held u(backend, s.rows, s.cols);
    u.fill(backend, gaussian(s.rows, s.cols, key_of(seed, "update")));
    NewtonSchulzOptions options = keller_newton_schulz(5);
    options.precision = precision;
    NewtonSchulz stage(options);
    const Shape shapes[] = {{s.rows, s.cols}};
    stage.prepare(backend, shapes);
    // Its result lies in u or in its own memory; what it works on the next time does not matter for the time.
    total += seconds_of(backend, [&] { stage.orthogonalize(u.tensor); });
  }
  return total;
}

double factorisation_seconds(Backend& backend, const Size& s, std::uint64_t seed) {
  const std::int64_t r = std::min(s.rows, s.cols);
  const Held a(backend, s.rows, s.cols), u(backend, s.rows, r), vt(backend, r, s.cols), values(backend, 1, r);
  const Matrix m = gaussian(s.rows, s.cols, key_of(seed, "update"));
  return seconds_of(backend, [&] {
    a.fill(backend, m);  // which the factorisation overwrites; a thousandth of its time
    backend.svd(a.tensor, u.tensor, values.tensor.reshaped({r}), vt.tensor);
  });
}

// Forward and backward products of these matrices on so many tokens.
double training_seconds(Backend& backend, const std::vector<Size>& sizes, std::int64_t tokens) {
  double total = 0;
  for (const Size& s : sizes) {
    const Held w(backend, s.rows, s.cols), dw(backend, s.rows, s.cols), x(backend, tokens, s.cols),
        y(backend, tokens, s.rows);
    for (const Held* h : {&w, &x, &y}) backend.fill(h->tensor, 0.5);
    total += seconds_of(backend, [&] {
      backend.matmul(x.tensor, false, w.tensor, true, 1, 0, y.tensor);
      backend.matmul(y.tensor, false, w.tensor, false, 1, 0, x.tensor);
      backend.matmul(y.tensor, true, x.tensor, false, 1, 0, dw.tensor);
      backend.fill(x.tensor, 0.5);
    });
  }
  return total;
}

double cosine(const Matrix& a, const Matrix& b) { return inner(a, b) / frobenius(a) / frobenius(b); }

class CostAccounting final : public Experiment {
 public:
  std::string_view name() const override { return "cost-accounting"; }
  std::string_view title() const override { return "What Muon costs: operations, bytes, seconds"; }

  std::vector<Claim> claims() const override {
    return {{"e19.cost", "kellerjordan.github.io/posts/muon",
             "Newton-Schulz takes T (4 m^2 n + 2 m^3) FLOPs, at most T d / B of a training step, and one "
             "number of state per parameter.",
             "Other counts from the program's own plans, or a measured share of the time that is more than "
             "twice the count's.",
             "FLOPs of the airbench network are counted from its published script."},
            {"e19.memory", "in circulation", "Muon takes significantly more memory than AdamW.",
             "The optimizer's plan has fewer bytes for Muon.", ""},
            {"e19.svd", "in circulation", "Muon needs a singular value decomposition of every update.",
             "Newton-Schulz ends at nearly the same direction in a comparable time or less.", ""},
            {"e19.bottleneck", "in circulation", "The cost of orthogonalisation makes Muon impractical.",
             "A share of a few percent at most, of the operations and of the time.", ""}};
  }

  void describe(OptionVisitor& v) override {
    v.field("width", &width_, within(16, 16384),
            "of the transformer and of the square matrix that is factorised");
    v.field("tokens", &tokens_, within(1, 1 << 20),
            "that the training products are timed with, then scaled to 524288");
  }

  Outcome run(const Surroundings& s) override {
    Outcome out;
    std::vector<Check> cost, bottleneck;
    operations(out, cost, bottleneck);
    const std::vector<Check> memory = bytes(s, out, cost);
    s.say("seconds of a layer's Newton-Schulz and training products");
    seconds(s, out, cost, bottleneck);
    s.say("seconds of a factorisation");
    const std::vector<Check> decomposition = directions(s, out);
    const std::vector<Claim> all = claims();
    out.claims = {{all[0], cost}, {all[1], memory}, {all[2], decomposition}, {all[3], bottleneck}};
    out.notes.push_back(
        "An independent measurement has 0.72 s for the decomposition of 768 x 768 and 0.26 s for "
        "Newton-Schulz on another processor: how far apart they are depends on the machine and its LAPACK, "
        "that the iteration suffices does not.");
    out.notes.push_back(
        fmt::format("Seconds are the least of five on {}; the training products are timed on {} tokens and "
                    "scaled to 524288. Attention, norms and the vocabulary's products, which would make the "
                    "share smaller, are left out.",
                    s.backend.description(), tokens_));
    return out;
  }

 private:
  void operations(Outcome& out, std::vector<Check>& cost, std::vector<Check>& bottleneck) const {
    double convolutions = 0, worst = 0;
    const NewtonSchulz five(keller_newton_schulz(5)), three(keller_newton_schulz(3));
    std::vector<Size> sizes(std::begin(kConvolutions), std::end(kConvolutions));
    const std::vector<Size> layer = layer_of(width_);
    sizes.insert(sizes.end(), layer.begin(), layer.end());
    for (const Size& size : sizes)
      for (const double steps : {3.0, 5.0}) {
        const double planned = (steps < 4 ? three : five).flops({size.rows, size.cols});
        worst = std::max(worst, std::abs(planned / half_flops(size, steps) - 1));
      }
    cost.push_back(no_more(
        "the rule's own count is T (3 m^2 n + m^3): the formula with symmetric products by half, to rounding",
        worst, 1e-12));
    for (const Size& size : kConvolutions) convolutions += full_flops(size, 3);
    const double share = 100 * convolutions / kConvolutionStep;
    out.measurements.push_back(
        expecting(measured("Newton-Schulz, 3 steps, of airbench94's filters", convolutions / 1e9, "GFLOP"),
                  6.3, kIndependent));
    out.measurements.push_back(expecting(
        measured("a training step of airbench94", kConvolutionStep / 1e9, "GFLOP"), 1418, kIndependent));
    out.measurements.push_back(
        expecting(measured("share of airbench94's step, 3 steps", share, "%"), 0.45, kIndependent));
    out.measurements.push_back(
        expecting(measured("share of airbench94's step, 5 steps", share * 5 / 3, "%"), 0.75, kIndependent));
    double orthogonal = 0, training = 0;
    for (const Size& size : layer) {
      orthogonal += full_flops(size, 5);
      training += 6 * static_cast<double>(size.rows * size.cols) * kTokens;
    }
    const double bound = 100 * 5 * static_cast<double>(width_) / kTokens,
                 counted = 100 * orthogonal / training;
    Measurement m = measured("T d / B of the transformer, 5 steps", bound, "%");
    out.measurements.push_back(published(m, 0.73, width_ == 768));
    out.measurements.push_back(measured("share of a layer's training products, counted", counted, "%"));
    cost.push_back(near_expected("airbench94: 0.45 % of a training step, to two digits", share, 0.45, 0.02));
    cost.push_back(no_more("transformer: the counted share / (T d / B) is at most 1", counted / bound, 1));
    bottleneck.push_back(
        no_less("airbench94: Newton-Schulz is at least 5 % of the operations", share, 5, "%"));
    bottleneck.push_back(no_less("transformer: at least 5 %", counted, 5, "%"));
  }

  std::vector<Check> bytes(const Surroundings& s, Outcome& out, std::vector<Check>& cost) const {
    std::vector<Check> memory;
    const auto config = [](const RuleOptions& rule) { return OptimizerConfig{{{{Role::hidden}, rule}}}; };
    struct Model {
      const char* name;
      std::vector<ParameterInfo> parameters;
    };
    const Model models[] = {
        {"airbench94's filters", parameters_of({std::begin(kConvolutions), std::end(kConvolutions)}, 1)},
        {"twelve layers of the transformer", parameters_of(layer_of(width_), 12)}};
    for (const Model& model : models) {
      double numbers = 0;
      for (const ParameterInfo& p : model.parameters) numbers += static_cast<double>(p.shape.numel());
      const OptimizerConfig muon = config(plain_momentum_muon()), adamw = config(AdamWOptions{});
      const auto state = [&](const OptimizerConfig& c) {
        return static_cast<double>(Optimizer::state_bytes(model.parameters, c, DType::f32));
      };
      const auto work = [&](const OptimizerConfig& c) {
        return static_cast<double>(Optimizer::workspace_bytes(model.parameters, c, s.backend));
      };
      const bool airbench = &model == models;
      const auto note = [&](const char* what, double value, double expected) {
        Measurement m = measured(fmt::format("{}, {}", what, model.name), value / 1e6, "MB");
        out.measurements.push_back(published(m, expected, airbench && expected > 0));
      };
      note("Muon's state", state(muon), 7.9);
      note("AdamW's state", state(adamw), 15.7);
      note("Muon's state and workspace", state(muon) + work(muon), 0);
      cost.push_back(
          near_expected(fmt::format("{}: Muon's state is 4 bytes per parameter, to 0.1 %", model.name),
                        state(muon) / numbers, 4, 0.001));
      memory.push_back(no_less(fmt::format("{}: Muon's state is larger (Muon / AdamW)", model.name),
                               state(muon) / state(adamw), 1));
      memory.push_back(no_less(fmt::format("{}: with the workspace it is (Muon / AdamW)", model.name),
                               (state(muon) + work(muon)) / (state(adamw) + work(adamw)), 1));
    }
    return memory;
  }

  static RuleOptions plain_momentum_muon() {
    MuonOptions o;
    o.newton_schulz = keller_newton_schulz(5);
    return o;
  }

  void seconds(const Surroundings& s, Outcome& out, std::vector<Check>& cost,
               std::vector<Check>& bottleneck) const {
    const std::vector<Size> layer = layer_of(width_);
    double counted = 0, training_flops = 0;
    for (const Size& size : layer) {
      counted += full_flops(size, 5);
      training_flops += 6 * static_cast<double>(size.rows * size.cols) * kTokens;
    }
    const double orthogonal = newton_schulz_seconds(s.backend, layer, DType::f32, s.seed),
                 training =
                     training_seconds(s.backend, layer, tokens_) * kTokens / static_cast<double>(tokens_);
    const double share = 100 * orthogonal / training;
    out.measurements.push_back(measured("Newton-Schulz of a layer, 5 steps", orthogonal, "s"));
    out.measurements.push_back(measured("training products of a layer on 524288 tokens", training, "s"));
    out.measurements.push_back(measured("share of a layer's training products, measured", share, "%"));
    cost.push_back(no_more("transformer: the measured share of the time / the counted share is at most 2",
                           share / (100 * counted / training_flops), 2));
    bottleneck.push_back(no_less("transformer: at least 5 % of the time", share, 5, "%"));
  }

  std::vector<Check> directions(const Surroundings& s, Outcome& out) const {
    const double factorised = factorisation_seconds(s.backend, {width_, width_}, s.seed),
                 iterated = newton_schulz_seconds(s.backend, {{width_, width_}}, DType::f32, s.seed),
                 published = newton_schulz_seconds(s.backend, {{width_, width_}}, DType::bf16, s.seed);
    out.measurements.push_back(
        measured(fmt::format("singular value decomposition of {0} x {0}", width_), factorised, "s"));
    out.measurements.push_back(
        measured(fmt::format("Newton-Schulz of {0} x {0}, 5 steps, f32", width_), iterated, "s"));
    out.measurements.push_back(
        measured(fmt::format("Newton-Schulz of {0} x {0}, 5 steps, bf16", width_), published, "s"));
    std::vector<Check> checks = {no_less(
        "Newton-Schulz in bf16, as published, is no alternative: it takes at least 3 times as long (ratio)",
        published / factorised, 3)};
    const std::int64_t n = std::min<std::int64_t>(width_, 256);
    Matrix power = gaussian(n, n, key_of(s.seed, "update"));
    const double gauss = cosine(newton_schulz(power, keller_newton_schulz(5)), polar(power).factor);
    Svd parts = svd(power);
    for (std::int64_t i = 0; i < n; ++i)
      for (std::int64_t j = 0; j < n; ++j) parts.vt(i, j) /= static_cast<double>(i + 1);
    power = product(parts.u, parts.vt);
    const double falling = cosine(newton_schulz(power, keller_newton_schulz(5)), polar(power).factor);
    out.measurements.push_back(measured("cosine of Newton-Schulz and U V^T, Gaussian matrix", gauss));
    out.measurements.push_back(measured("cosine of Newton-Schulz and U V^T, singular values 1/i", falling));
    checks.push_back({"without one the direction is another: cosine with U V^T below 0.9, Gaussian matrix",
                      shown(gauss), gauss < 0.9});
    checks.push_back({"the same for singular values 1/i", shown(falling), falling < 0.9});
    return checks;
  }

  std::int64_t width_ = 768, tokens_ = 1024;
};

}  // namespace

std::unique_ptr<Experiment> make_cost_accounting() { return std::make_unique<CostAccounting>(); }

}  // namespace spectrain::lab
