#include <fmt/format.h>

#include <algorithm>

#include "optim/check_option.h"
#include "optim/matrix_rule.h"
#include "optim/momentum.h"
#include "optim/newton_schulz.h"
#include "optim/registry.h"
#include "optim/stage_memory.h"

namespace spectrain {
namespace {
enum class Reduce : std::uint8_t { rows, longer };
constexpr Word<Reduce> kReduce[] = {{"rows", Reduce::rows}, {"longer", Reduce::longer}};
}  // namespace

// NorMuon (Li et al. 2025, 2510.05491): Muon whose rows, the neurons, are brought to comparable length.
//
//   u = momentum(G)       O = NewtonSchulz(u)
//   v = b2 v + (1 - b2) mean over each row of O^2
//   D = O / (sqrt(v) + eps), row by row, rescaled to the Frobenius norm of O
//   W = (1 - lr decay) W - lr s(shape) D
//
// It is the authors' code, which keeps the norm of O; the paper sets the norm to 0.2 sqrt(out in) instead,
// which is match_rms where O is orthogonal. v starts at 0 without bias correction, of which the rescaling
// leaves nothing. reduce: rows, one v for each row; longer, one for each row where there are at least as many
// rows as columns, else one for each column (modded-nanogpt, with b2 0.9).
//
// Defaults: lr 0.02, mu 0.95, Nesterov, b2 0.95, eps 1e-10, decay 0, original, rows, polar-express x 5 in
// f32. Track 3 of modded-nanogpt, record 10: lr 0.035, decay 0.025, longer. State: 1 number per parameter
// (momentum) and 1 per row (row_variance). Cost: Muon's and 6 FLOPs per parameter.
struct NorMuonOptions : MomentumOptions {
  double lr = 0.02, weight_decay = 0, beta2 = 0.95, eps = 1e-10;
  Reduce reduce = Reduce::rows;
  ShapeScale shape_scale = ShapeScale::original;
  NewtonSchulzOptions newton_schulz;
  bool operator==(const NorMuonOptions&) const = default;
};

const RuleInfo& info_of(const NorMuonOptions&) {
  static const RuleInfo info{
      "normuon", "O = NewtonSchulz(momentum(G)), rows / sqrt(v);  W = (1 - lr decay) W - lr s O |O| / |O'|",
      "Li et al. 2025 (2510.05491)", true};
  return info;
}

void describe_options(OptionVisitor& v, NorMuonOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  describe_momentum(v, o);
  v.field("beta2", &o.beta2, below_one(), "decay of the rows' second moment");
  v.field("eps", &o.eps, above_only(0), "added to the root of the second moment");
  v.field("reduce", choice(o.reduce, kReduce), {},
          "one second moment per row, or along the longer side, per row or column");
  describe_shape_scale(v, o.shape_scale);
  describe_newton_schulz(v, o.newton_schulz);
}

namespace {

class RowVariance final : public MatrixStage {
 public:
  RowVariance(double beta2, double eps, Reduce reduce) : beta2_(beta2), eps_(eps), reduce_(reduce) {
    squares_.sum_of(square(squares_.tensor(0)));
    const Term v = average_.tensor(0), sum = average_.tensor(1), b2 = average_.number(0);
    average_.assign(0, b2 * v + (1 - b2) * average_.number(1) * sum);
    before_.sum_of(before_.tensor(0));
    after_.sum_of(after_.tensor(0) / square(sqrt(after_.tensor(1)) + after_.number(0)));
    write_rescaling(by_row_, Extent::rows);
    write_rescaling(by_column_, Extent::columns);
  }

  std::vector<StateSlot> state(const Shape& part) const override {
    return {{"row_variance", Shape{moments(part)}}};
  }
  double flops(const Shape& part) const override { return 6.0 * static_cast<double>(part.numel()); }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override {
    return StageMemory::bytes(buffers(batches, backend.master()));
  }
  void prepare(Backend& backend, std::span<const Shape> batches) override {
    backend_ = &backend;
    memory_.allocate(backend, buffers(batches, backend.master()));
  }

  Tensor apply(const StepContext&, const MatrixBatch& batch, const Tensor& in) override {
    const Shape& each = batch.shape();
    const Extent extent = by_rows(each) ? Extent::rows : Extent::columns;
    const double mean = static_cast<double>(moments(each)) / static_cast<double>(each.numel());
    const Tensor sums = memory_.view(kSums, {moments(each)}), before = memory_.view(kBefore, {1}),
                 after = memory_.view(kAfter, {1});
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      const Tensor o = in.matrix(i), v = batch.state(i, 0);
      backend_->reduce(squares_, {}, {o}, extent, sums);
      backend_->evaluate(average_, {beta2_, mean}, {v, sums});
      // |O|^2 and |D|^2 before rescaling, from the rows' squares: O is read twice, not four times.
      backend_->reduce(before_, {}, {sums}, Extent::one, before);
      backend_->reduce(after_, {eps_}, {sums, v}, Extent::one, after);
      backend_->evaluate(extent == Extent::rows ? by_row_ : by_column_, {eps_}, {o, v, before, after});
    }
    return in;
  }

 private:
  enum { kSums, kBefore, kAfter };
  bool by_rows(const Shape& part) const { return reduce_ == Reduce::rows || part.rows() >= part.cols(); }
  std::int64_t moments(const Shape& part) const { return by_rows(part) ? part.rows() : part.cols(); }
  static std::vector<StageBuffer> buffers(std::span<const Shape> batches, DType master) {
    std::int64_t side = 0;
    for (const Shape& b : batches) side = std::max({side, b[1], b[2]});
    return {{side, master, "squares of rows"}, {1, master, "norm before"}, {1, master, "norm after"}};
  }
  static void write_rescaling(Formula& f, Extent extent) {
    const Term v = f.tensor(1, extent), before = f.tensor(2, Extent::one), after = f.tensor(3, Extent::one);
    const Term rescale = choose(above(after, 0), sqrt(before) / sqrt(after), f.constant(0));
    f.assign(0, f.tensor(0) * rescale / (sqrt(v) + f.number(0)));
  }

  double beta2_, eps_;
  Reduce reduce_;
  Formula squares_, average_, before_, after_, by_row_, by_column_;
  Backend* backend_ = nullptr;
  StageMemory memory_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const NorMuonOptions& o, const FinishOptions& finish) {
  check_options("normuon", o);
  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<Momentum>(o));
  stages.push_back(std::make_unique<NewtonSchulz>(o.newton_schulz));
  stages.push_back(std::make_unique<RowVariance>(o.beta2, o.eps, o.reduce));
  const std::string settings =
      fmt::format("{}, beta2 {} by {}, {}, {}", momentum_settings(o), o.beta2, word_of(kReduce, o.reduce),
                  name_of(o.shape_scale), describe(o.newton_schulz));
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"normuon", settings, o.lr, o.weight_decay, o.shape_scale}, std::move(stages),
      finish);
}

RuleOptions normuon() { return NorMuonOptions{}; }

}  // namespace spectrain
