#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "kernels/error.h"
#include "optim/check_option.h"
#include "optim/matrix_rule.h"
#include "optim/momentum.h"
#include "optim/newton_schulz.h"
#include "optim/registry.h"
#include "optim/stage_memory.h"

namespace spectrain {
namespace {
enum class Lmo : std::uint8_t { automatic, spectral, sign, column_norm, rms };
constexpr Word<Lmo> kLmos[] = {{"auto", Lmo::automatic},
                               {"spectral", Lmo::spectral},
                               {"sign", Lmo::sign},
                               {"column_norm", Lmo::column_norm},
                               {"rms", Lmo::rms}};
}  // namespace

// Scion (Pethick et al. 2025, 2502.07529): each step goes towards the point of a ball, in a norm that suits
// the layer, where the averaged gradient is lowest (a linear minimisation oracle, lmo).
//
//   m = (1 - alpha) m + alpha G
//   W = (1 - lr) W - lr radius D(m)      constrained: W stays in the ball    (unconstrained: without 1 - lr)
//
//   lmo          D, for an [out, in] matrix
//   spectral     sqrt(out / in) NewtonSchulz(m)                            hidden matrices
//   sign         sign(m) / in                                              the head
//   column_norm  each row of m divided by its root mean square             embeddings: a row is a token
//   rms          m divided by its root mean square                         vectors
//   auto         spectral; rms for vectors and for matrices with a side below 8, which spectral refuses
//
// auto sees shapes alone: an embedding or a head looks like a hidden matrix, so each of them takes a group of
// its own. All parameters of a model under this one rule, with the authors' radii:
//
//   optimizer:
//     - {parameters: [hidden, gain, bias, scalar], rule: scion, radius: 50}
//     - {parameters: embedding, rule: scion, lmo: column_norm, radius: 3000}
//     - {parameters: head, rule: scion, lmo: sign, radius: 3000}
//
// (The authors' networks have neither gains nor biases.) D of zeros is zeros.
//
// Defaults: lr 2^-12, alpha 0.1, radius 50, constrained, auto, polar-express x 5 in f32. State: 1 number per
// parameter (momentum). Cost: that of spectral is Muon's, of the others about 4 FLOPs per parameter.
struct ScionOptions {
  double lr = 0x1p-12, alpha = 0.1, radius = 50;
  bool constrained = true;
  Lmo lmo = Lmo::automatic;
  NewtonSchulzOptions newton_schulz;
  bool operator==(const ScionOptions&) const = default;
};

const RuleInfo& info_of(const ScionOptions&) {
  static const RuleInfo info{"scion", "m = (1 - a) m + a G;  W = (1 - lr) W - lr radius D(m), D by lmo",
                             "Pethick et al. 2025 (2502.07529)"};
  return info;
}

void describe_options(OptionVisitor& v, ScionOptions& o) {
  v.field("lr", &o.lr, within(0, 1), "learning rate: the share of the way to the point on the ball");
  v.field("alpha", &o.alpha, Range{0, 1, true, false}, "the newest gradient's share in the average");
  v.field("radius", &o.radius, above_only(0), "of the ball");
  v.field("constrained", &o.constrained, {}, "weights decay by lr, which keeps them in the ball");
  v.field("lmo", choice(o.lmo, kLmos), {},
          "the norm: spectral (hidden), sign (head), column_norm (embedding), rms (vectors), auto by shape");
  describe_newton_schulz(v, o.newton_schulz);
}

namespace {

Lmo lmo_of(Lmo lmo, const Shape& part) {
  if (lmo != Lmo::automatic) return lmo;
  return not_a_matrix(part).empty() ? Lmo::spectral : Lmo::rms;
}

double factor_of(Lmo lmo, double radius, const Shape& part) {
  if (lmo == Lmo::spectral) return radius * shape_factor(ShapeScale::unit_rms, part.rows(), part.cols());
  return lmo == Lmo::sign ? radius / static_cast<double>(part.cols()) : radius;
}

class Oracle final : public MatrixStage {
 public:
  Oracle(Lmo lmo, const NewtonSchulzOptions& options) : lmo_(lmo), newton_schulz_(options) {
    sign_.assign(0, sign(sign_.tensor(0)));
    squares_.sum_of(square(squares_.tensor(0)));
    const Term sum = divide_.tensor(1, Extent::rows);
    divide_.assign(
        0, divide_.tensor(0) * choose(above(sum, 0), divide_.number(0) / sqrt(sum), divide_.constant(0)));
  }

  double flops(const Shape& part) const override {
    return lmo_of(lmo_, part) == Lmo::spectral ? newton_schulz_.flops(part)
                                               : 4.0 * static_cast<double>(part.numel());
  }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override {
    return newton_schulz_.workspace_bytes(spectral(batches), backend) +
           StageMemory::bytes(buffers(batches, backend.master()));
  }
  void prepare(Backend& backend, std::span<const Shape> batches) override {
    backend_ = &backend;
    const std::vector<Shape> matrices = spectral(batches);
    if (!matrices.empty()) newton_schulz_.prepare(backend, matrices);
    memory_.allocate(backend, buffers(batches, backend.master()));
  }

  Tensor apply(const StepContext&, const MatrixBatch& batch, const Tensor& in) override {
    const Lmo lmo = lmo_of(lmo_, batch.shape());
    if (lmo == Lmo::spectral) return newton_schulz_.orthogonalize(in);
    if (lmo == Lmo::sign) {
      backend_->evaluate(sign_, {}, {in});
      return in;
    }
    // What has one norm is one row: of the batch's matrices, or each of their rows.
    const std::int64_t rows = lmo == Lmo::rms ? in.shape[0] : in.shape[0] * in.shape[1];
    const Tensor x = in.reshaped({rows, in.numel() / rows}), sums = memory_.view(0, {rows});
    backend_->reduce(squares_, {}, {x}, Extent::rows, sums);
    backend_->evaluate(divide_, {std::sqrt(static_cast<double>(x.cols()))}, {x, sums});
    return in;
  }

 private:
  // Those batches that go to Newton-Schulz. A vector's is [B, 1, n], which is none of them either way.
  std::vector<Shape> spectral(std::span<const Shape> batches) const {
    std::vector<Shape> matrices;
    for (const Shape& b : batches)
      if (lmo_of(lmo_, {b[1], b[2]}) == Lmo::spectral) matrices.push_back(b);
    return matrices;
  }
  std::vector<StageBuffer> buffers(std::span<const Shape> batches, DType master) const {
    std::int64_t sums = 0;
    for (const Shape& b : batches) {
      const Lmo lmo = lmo_of(lmo_, {b[1], b[2]});
      if (lmo == Lmo::rms) sums = std::max(sums, b[0]);
      if (lmo == Lmo::column_norm) sums = std::max(sums, b[0] * b[1]);
    }
    return {{sums, master, "squares of rows"}};
  }

  Lmo lmo_;
  NewtonSchulz newton_schulz_;
  Formula sign_, squares_, divide_;
  Backend* backend_ = nullptr;
  StageMemory memory_;
};

void check_finish(const ScionOptions& o, const FinishOptions& finish) {
  if (!o.constrained) return;
  if (finish.constraint != Constraint::none)
    throw RequestError("scion: constraint hyperball holds every norm; set constrained to false beside it");
  if (finish.decay != DecayMode::decoupled || finish.decay_schedule != DecaySchedule::constant ||
      finish.cautious)
    throw RequestError(
        "scion: constrained weights decay by exactly lr; leave the section decay out, or set constrained to "
        "false");
}

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const ScionOptions& o, const FinishOptions& finish) {
  check_options("scion", o);
  check_finish(o, finish);
  MomentumOptions momentum;
  momentum.momentum = 1 - o.alpha;
  momentum.nesterov = false;
  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<Momentum>(momentum));
  stages.push_back(std::make_unique<Oracle>(o.lmo, o.newton_schulz));
  const std::string settings =
      fmt::format("{} radius {}, alpha {}, {}{}", word_of(kLmos, o.lmo), o.radius, o.alpha,
                  o.constrained ? "constrained" : "unconstrained",
                  o.lmo == Lmo::automatic || o.lmo == Lmo::spectral ? ", " + describe(o.newton_schulz) : "");
  MatrixRuleSettings rule{"scion", settings, o.lr, o.constrained ? 1.0 : 0.0, ShapeScale::none};
  const bool spectral = o.lmo == Lmo::spectral;
  rule.objection = [spectral, side = finish.smallest_side](const Shape& part) {
    return spectral ? not_a_matrix(part, side) : std::string();
  };
  rule.factor = [o](const Shape& part) { return factor_of(lmo_of(o.lmo, part), o.radius, part); };
  return std::make_unique<MatrixRule>(std::move(rule), std::move(stages), finish);
}

RuleOptions scion() { return ScionOptions{}; }

}  // namespace spectrain
