#include <fmt/format.h>

#include <cmath>

#include "optim/check_option.h"
#include "optim/matrix_rule.h"
#include "optim/momentum.h"
#include "optim/newton_schulz.h"
#include "optim/registry.h"
#include "optim/stage_memory.h"

namespace spectrain {

// AdaMuon (Si et al. 2025, 2507.11005): Muon with a second moment of each number of its direction.
//
//   u = momentum(G)       O = NewtonSchulz(sign(u))
//   v = b2 v + (1 - b2) O^2
//   D = O / (sqrt(v) + eps), scaled to a root mean square of `rms`
//   W = (1 - lr decay) W - lr D
//
// sign(u) does not change with the length of u, so that v is of comparable directions throughout. b2 is
// beta2, -1: the momentum's, as published. v starts at 0 without bias correction, of which the scaling leaves
// nothing. rms 0.2 is about AdamW's, so that its learning rates carry over.
//
// Defaults: lr 0.02, mu 0.95, Nesterov, beta2 -1, eps 1e-8, rms 0.2, decay 0.01, polar-express x 5 in f32.
// State: 2 numbers per parameter (momentum, square). Cost: Muon's and 8 FLOPs per parameter.
struct AdaMuonOptions : MomentumOptions {
  double lr = 0.02, weight_decay = 0.01, beta2 = -1, eps = 1e-8, rms = 0.2;
  NewtonSchulzOptions newton_schulz;
  double square_decay() const { return beta2 < 0 ? momentum : beta2; }
  bool operator==(const AdaMuonOptions&) const = default;
};

const RuleInfo& info_of(const AdaMuonOptions&) {
  static const RuleInfo info{
      "adamuon",
      "O = NewtonSchulz(sign(momentum(G)));  W = (1 - lr decay) W - lr 0.2 O / sqrt(v), normalised",
      "Si et al. 2025 (2507.11005)", true};
  return info;
}

void describe_options(OptionVisitor& v, AdaMuonOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  describe_momentum(v, o);
  v.field("beta2", &o.beta2, Range{-1, 1, false, true}, "decay of the second moment; -1: the momentum's");
  v.field("eps", &o.eps, above_only(0), "added to the root of the second moment");
  v.field("rms", &o.rms, above_only(0), "root mean square of every direction");
  describe_newton_schulz(v, o.newton_schulz);
}

namespace {

class Signs final : public MatrixStage {
 public:
  Signs() { sign_.assign(0, sign(sign_.tensor(0))); }
  double flops(const Shape& part) const override { return static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape>, const BackendSizes&) const override { return 0; }
  void prepare(Backend& backend, std::span<const Shape>) override { backend_ = &backend; }
  Tensor apply(const StepContext&, const MatrixBatch&, const Tensor& in) override {
    backend_->evaluate(sign_, {}, {in});
    return in;
  }

 private:
  Formula sign_;
  Backend* backend_ = nullptr;
};

class ElementVariance final : public MatrixStage {
 public:
  ElementVariance(double beta2, double eps, double rms) : beta2_(beta2), eps_(eps), rms_(rms) {
    const Term o = divide_.tensor(0), b2 = divide_.number(0);
    const Term v = b2 * divide_.tensor(1) + (1 - b2) * square(o);
    divide_.assign(1, v);
    divide_.assign(0, o / (sqrt(v) + divide_.number(1)));
    squares_.sum_of(square(squares_.tensor(0)));
    const Term sum = rescale_.tensor(1, Extent::one);
    rescale_.assign(
        0, rescale_.tensor(0) * choose(above(sum, 0), rescale_.number(0) / sqrt(sum), rescale_.constant(0)));
  }

  std::vector<StateSlot> state(const Shape& part) const override { return {{"square", part}}; }
  double flops(const Shape& part) const override { return 8.0 * static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape>, const BackendSizes& backend) const override {
    return StageMemory::bytes(buffers(backend.master()));
  }
  void prepare(Backend& backend, std::span<const Shape>) override {
    backend_ = &backend;
    memory_.allocate(backend, buffers(backend.master()));
  }

  Tensor apply(const StepContext&, const MatrixBatch& batch, const Tensor& in) override {
    const Tensor sum = memory_.view(0, {1});
    const double norm = rms_ * std::sqrt(static_cast<double>(batch.shape().numel()));
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      backend_->evaluate(divide_, {beta2_, eps_}, {in.matrix(i), batch.state(i, 0)});
      backend_->reduce(squares_, {}, {in.matrix(i)}, Extent::one, sum);
      backend_->evaluate(rescale_, {norm}, {in.matrix(i), sum});
    }
    return in;
  }

 private:
  static std::vector<StageBuffer> buffers(DType master) { return {{1, master, "norm of a direction"}}; }

  double beta2_, eps_, rms_;
  Formula divide_, squares_, rescale_;
  Backend* backend_ = nullptr;
  StageMemory memory_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const AdaMuonOptions& o, const FinishOptions& finish) {
  check_options("adamuon", o);
  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<Momentum>(o));
  stages.push_back(std::make_unique<Signs>());
  stages.push_back(std::make_unique<NewtonSchulz>(o.newton_schulz));
  stages.push_back(std::make_unique<ElementVariance>(o.square_decay(), o.eps, o.rms));
  const std::string settings = fmt::format("{}, beta2 {}, rms {}, {}", momentum_settings(o), o.square_decay(),
                                           o.rms, describe(o.newton_schulz));
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"adamuon", settings, o.lr, o.weight_decay, ShapeScale::none}, std::move(stages),
      finish);
}

RuleOptions adamuon() { return AdaMuonOptions{}; }

}  // namespace spectrain
