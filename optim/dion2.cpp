#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "optim/check_option.h"
#include "optim/matrix_rule.h"
#include "optim/newton_schulz.h"
#include "optim/registry.h"
#include "optim/stage_memory.h"

namespace spectrain {

// Dion2 (Ahn et al. 2025, 2512.16928): Muon of those rows alone that have waited with the most.
//
//   M = M + G
//   S = the k = ceil(fraction out) rows of M with the largest sums of magnitudes, of equal ones the earlier
//   W = (1 - lr decay) W;   W[S] -= lr s(shape) NewtonSchulz(M[S])
//   M[S] = error_feedback M[S]          what a row has been used for fades, what it has not been used for
//                                       stays in full
//
// M is a sum, not an average: rows of different ages are compared with each other. s is of the whole matrix.
// (The authors' code; on one device, or with every matrix whole, as here.)
//
// Defaults: lr 0.01, fraction 0.25, error_feedback 0.95, decay 0.01, unit_rms, polar-express x 5 in f32.
// State: 1 number per parameter (momentum). Cost: Newton-Schulz's of [k, in], a quarter of Muon's or less,
// and 6 FLOPs per parameter.
struct Dion2Options {
  double lr = 0.01, weight_decay = 0.01, fraction = 0.25, error_feedback = 0.95;
  ShapeScale shape_scale = ShapeScale::unit_rms;
  NewtonSchulzOptions newton_schulz;
  bool operator==(const Dion2Options&) const = default;
};

const RuleInfo& info_of(const Dion2Options&) {
  static const RuleInfo info{
      "dion2", "M = M + G;  W[S] -= lr s NewtonSchulz(M[S]) for the largest rows S;  M[S] = ef M[S]",
      "Ahn et al. 2025 (2512.16928)", true};
  return info;
}

void describe_options(OptionVisitor& v, Dion2Options& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w, of all rows");
  v.field("fraction", &o.fraction, Range{0, 1, true, false}, "of the rows, updated in each step");
  v.field("error_feedback", &o.error_feedback, within(0, 1), "what is left of the momentum of those rows");
  describe_shape_scale(v, o.shape_scale);
  describe_newton_schulz(v, o.newton_schulz);
}

namespace {

class LargestRows final : public MatrixStage {
 public:
  explicit LargestRows(const Dion2Options& o)
      : fraction_(o.fraction), error_feedback_(o.error_feedback), newton_schulz_(o.newton_schulz) {
    magnitudes_.sum_of(abs(magnitudes_.tensor(0)));
  }

  std::vector<StateSlot> state(const Shape& part) const override { return {{"momentum", part}}; }
  double flops(const Shape& part) const override {
    return newton_schulz_.flops({chosen(part.rows()), part.cols()}) + 6.0 * static_cast<double>(part.numel());
  }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override {
    return newton_schulz_.workspace_bytes(selected(batches), backend) +
           StageMemory::bytes(buffers(batches, backend.master()));
  }
  void prepare(Backend& backend, std::span<const Shape> batches) override {
    backend_ = &backend;
    newton_schulz_.prepare(backend, selected(batches));
    memory_.allocate(backend, buffers(batches, backend.master()));
  }

  Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor&) override {
    const Shape& part = batch.shape();
    const std::int64_t rows = part.rows(), count = chosen(rows), cols = part.cols();
    const Tensor directions = memory_.view(kDirections, batch.stacked()),
                 indices = memory_.view(kIndices, {batch.size(), count}),
                 some = memory_.view(kSelected, {batch.size(), count, cols}),
                 faded = memory_.view(kFaded, {count, cols}), scores = memory_.view(kScores, {rows});
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      const Tensor m = batch.state(i, 0);
      backend_->axpby(context.gradient_scale, batch.part(i).gradient, 1, m);
      backend_->reduce(magnitudes_, {}, {m}, Extent::rows, scores);
      backend_->top_rows(scores, row_of(indices, i));
      backend_->gather_rows(m, row_of(indices, i), some.matrix(i));
      backend_->scale(some.matrix(i), error_feedback_, faded);
      backend_->scatter_rows(faded, row_of(indices, i), m);
    }
    const Tensor factors = newton_schulz_.orthogonalize(some);
    backend_->fill(directions, 0);
    for (std::int64_t i = 0; i < batch.size(); ++i)
      backend_->scatter_rows(factors.matrix(i), row_of(indices, i), directions.matrix(i));
    return directions;
  }

 private:
  enum { kDirections, kSelected, kFaded, kScores, kIndices };

  std::int64_t chosen(std::int64_t rows) const {
    const auto count = static_cast<std::int64_t>(std::ceil(fraction_ * static_cast<double>(rows)));
    return std::clamp<std::int64_t>(count, 1, rows);
  }
  std::vector<Shape> selected(std::span<const Shape> batches) const {
    std::vector<Shape> shapes;
    for (const Shape& b : batches) shapes.push_back({b[0], chosen(b[1]), b[2]});
    return shapes;
  }
  std::vector<StageBuffer> buffers(std::span<const Shape> batches, DType master) const {
    const std::vector<Shape> some = selected(batches);
    std::int64_t scores = 0, indices = 0;
    for (const Shape& b : batches) {
      scores = std::max(scores, b[1]);
      indices = std::max(indices, b[0] * chosen(b[1]));
    }
    return {{largest_batch(batches), master, "Dion2's directions"},
            {largest_batch(some), master, "Dion2's chosen rows"},
            {largest_matrix(some), master, "Dion2's error feedback"},
            {scores, master, "sums of rows"},
            {indices, DType::i32, "chosen rows"}};
  }

  double fraction_, error_feedback_;
  NewtonSchulz newton_schulz_;
  Formula magnitudes_;
  Backend* backend_ = nullptr;
  StageMemory memory_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const Dion2Options& o, const FinishOptions& finish) {
  check_options("dion2", o);
  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<LargestRows>(o));
  const std::string settings =
      fmt::format("{} of the rows, error feedback {}, {}, {}", o.fraction, o.error_feedback,
                  name_of(o.shape_scale), describe(o.newton_schulz));
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"dion2", settings, o.lr, o.weight_decay, o.shape_scale}, std::move(stages), finish);
}

RuleOptions dion2() { return Dion2Options{}; }

}  // namespace spectrain
