#include <fmt/format.h>

#include <algorithm>

#include "optim/check_option.h"
#include "optim/matrix_rule.h"
#include "optim/momentum.h"
#include "optim/registry.h"
#include "optim/stage_memory.h"

namespace spectrain {

// Spectral descent (Carlson et al. 2015, "Preconditioned Spectral Descent for Deep Learning"; its scaled form
// Lau et al. 2025, 2505.21799): steepest descent where the size of a step is its largest singular value.
//
//   u = g, or momentum's average of it       u = U diag(s) V^T, by a factorisation, not by iteration
//   D = U V^T                                nuclear_scale: times s_1 + s_2 + ... (the nuclear norm)
//   W = (1 - lr decay) W - lr s(shape) D
//
// Singular values below eps max(out, in) s_1, with eps the spacing of the dtype's numbers at 1, are rounding:
// their directions are left out, so that a zero gradient gives a zero update.
//
// Defaults: lr 0.03 (modded-nanogpt track 3, record 22, with decay 0.015), no momentum, decay 0, original,
// nuclear_scale off. State: none; 1 number per parameter (momentum) with momentum. Cost with n the short
// side, m the long: about 6 m n^2 + 20 n^3 FLOPs for the factorisation, of which little are matrix products.
struct SpectralDescentOptions : MomentumOptions {
  SpectralDescentOptions() {
    momentum = 0;
    nesterov = false;
  }
  double lr = 0.03, weight_decay = 0;
  bool nuclear_scale = false;
  ShapeScale shape_scale = ShapeScale::original;
  bool operator==(const SpectralDescentOptions&) const = default;
};

const RuleInfo& info_of(const SpectralDescentOptions&) {
  static const RuleInfo info{"spectral_descent", "g = U S V^T;  W = (1 - lr decay) W - lr s U V^T",
                             "Carlson et al. 2015 (NeurIPS); Lau et al. 2025 (2505.21799)", true};
  return info;
}

void describe_options(OptionVisitor& v, SpectralDescentOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  describe_momentum(v, o);
  v.field("nuclear_scale", &o.nuclear_scale, {}, "steps grow with the sum of the singular values");
  describe_shape_scale(v, o.shape_scale);
}

namespace {

class ExactPolar final : public MatrixStage {
 public:
  explicit ExactPolar(bool nuclear_scale) : nuclear_(nuclear_scale) {
    const Term u = cut_.tensor(0), s = cut_.tensor(1, Extent::columns), largest = cut_.tensor(2, Extent::one);
    const Term kept = u * above(s, cut_.number(0) * largest);
    cut_.assign(0, nuclear_ ? kept * cut_.tensor(3, Extent::one) : kept);
    sum_.sum_of(sum_.tensor(0));
  }

  double flops(const Shape& part) const override {
    const auto n = static_cast<double>(std::min(part.rows(), part.cols()));
    const auto m = static_cast<double>(std::max(part.rows(), part.cols()));
    return 8 * m * n * n + 20 * n * n * n;
  }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override {
    return StageMemory::bytes(buffers(batches, backend.master()));
  }
  void prepare(Backend& backend, std::span<const Shape> batches) override {
    backend_ = &backend;
    memory_.allocate(backend, buffers(batches, backend.master()));
    tensors_.reserve(4);
  }

  Tensor apply(const StepContext&, const MatrixBatch&, const Tensor& in) override {
    const std::int64_t batch = in.shape[0], m = in.shape[1], n = in.shape[2], r = std::min(m, n);
    const Tensor u = memory_.view(kLeft, {batch, m, r}), s = memory_.view(kValues, {batch, r}),
                 vt = memory_.view(kRight, {batch, r, n}), sum = memory_.view(kSum, {1});
    backend_->svd(in, u, s, vt);
    const double numbers[] = {spacing(in.dtype) * static_cast<double>(std::max(m, n))};
    for (std::int64_t i = 0; i < batch; ++i) {
      const Tensor values = row_of(s, i);
      tensors_.assign({u.matrix(i), values, one_of(values, 0)});
      if (nuclear_) {
        backend_->reduce(sum_, {}, {values}, Extent::one, sum);
        tensors_.push_back(sum);
      }
      backend_->evaluate(cut_, numbers, tensors_);
    }
    backend_->matmul(u, false, vt, false, 1, 0, in);
    return in;
  }

 private:
  enum { kLeft, kValues, kRight, kSum };
  static std::vector<StageBuffer> buffers(std::span<const Shape> batches, DType master) {
    std::int64_t left = 0, values = 0, right = 0;
    for (const Shape& b : batches) {
      const std::int64_t r = std::min(b[1], b[2]);
      left = std::max(left, b[0] * b[1] * r);
      values = std::max(values, b[0] * r);
      right = std::max(right, b[0] * r * b[2]);
    }
    return {{left, master, "left singular vectors"},
            {values, master, "singular values"},
            {right, master, "right singular vectors"},
            {1, master, "nuclear norm"}};
  }

  bool nuclear_;
  Formula cut_, sum_;
  Backend* backend_ = nullptr;
  StageMemory memory_;
  std::vector<Tensor> tensors_;  // of one call; a step allocates nothing
};

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const SpectralDescentOptions& o, const FinishOptions& finish) {
  check_options("spectral_descent", o);
  std::vector<std::unique_ptr<MatrixStage>> stages;
  if (o.momentum > 0)
    stages.push_back(std::make_unique<Momentum>(o));
  else
    stages.push_back(std::make_unique<PlainGradient>());
  stages.push_back(std::make_unique<ExactPolar>(o.nuclear_scale));
  const std::string settings =
      fmt::format("{}, {}{}", o.momentum > 0 ? momentum_settings(o) : "no momentum", name_of(o.shape_scale),
                  o.nuclear_scale ? ", times the nuclear norm" : "");
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"spectral_descent", settings, o.lr, o.weight_decay, o.shape_scale},
      std::move(stages), finish);
}

RuleOptions spectral_descent() { return SpectralDescentOptions{}; }

}  // namespace spectrain
