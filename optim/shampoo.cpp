#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "optim/check_option.h"
#include "optim/kronecker.h"
#include "optim/matrix_rule.h"
#include "optim/registry.h"
#include "optim/stage_memory.h"

namespace spectrain {
namespace {
enum class Exponent : std::uint8_t { quarter, half };
constexpr Word<Exponent> kExponents[] = {{"1/4", Exponent::quarter}, {"1/2", Exponent::half}};
enum class Grafting : std::uint8_t { none, adam, sgd };
constexpr Word<Grafting> kGraftings[] = {
    {"none", Grafting::none}, {"adam", Grafting::adam}, {"sgd", Grafting::sgd}};
}  // namespace

// Shampoo (Gupta, Koren, Singer 2018, 1802.09568), with averages in place of sums and grafting as in
// Distributed Shampoo (Anil et al. 2020, 2002.09018; Shi et al. 2023, 2309.06497). t counts from 1:
//
//   m = b1 m + (1 - b1) G,                     M = m / (1 - b1^t)
//   L = b2 L + (1 - b2) G G^T,                 R = b2 R + (1 - b2) G^T G
//   every f-th t:  A = (L / (1 - b2^t))^-p,    B = (R / (1 - b2^t))^-p
//   P = A M B                                  D = P |g| / |P|, with the norm of the grafted direction g
//   W = (1 - lr decay) W - lr D
//
//   grafting   g
//   adam       M / (sqrt(v / (1 - b2^t)) + graft_eps),  v = b2 v + (1 - b2) G^2
//   sgd        M
//   none       D = P
//
// Until the first A and B, at t = f, D is g; with grafting none they are made at t = 1 too. A root is taken
// of eigenvalues max(x, 0) + eps x_max, where eps is at least the spacing of the dtype's numbers at 1:
// smaller ones are rounding, and their roots would lift it. A side longer than max_dimension has no factor.
//
// Defaults, which are modded-nanogpt's track 3, record 21: lr 1.5e-3, betas 0.9 and 0.95, decay 0.2, f 5,
// p 1/4, adam, eps 1e-12, graft_eps 1e-10; max_dimension 10000. (Authors: p 1/4; p 1/2 is the power of full
// Kronecker whitening.) State for [m,n]: m n + 2 m^2 + 2 n^2 numbers (momentum, left, right, left_root,
// right_root), with adam m n more (square): 6 per parameter where m = n. Cost: 3 m n (m + n) FLOPs a step
// in matrix products; every f-th step about 10 (m^3 + n^3) for two eigendecompositions, which are not.
struct ShampooOptions {
  double lr = 1.5e-3, weight_decay = 0.2, beta1 = 0.9, beta2 = 0.95, eps = 1e-12, graft_eps = 1e-10;
  std::int64_t frequency = 5, max_dimension = 10000;
  Exponent exponent = Exponent::quarter;
  Grafting grafting = Grafting::adam;
  bool operator==(const ShampooOptions&) const = default;
};

const RuleInfo& info_of(const ShampooOptions&) {
  static const RuleInfo info{"shampoo",
                             "L, R averages of G G^T, G^T G;  W = (1 - lr decay) W - lr L^-p m R^-p, grafted",
                             "Gupta et al. 2018 (1802.09568); Anil et al. 2020 (2002.09018)", true};
  return info;
}

void describe_options(OptionVisitor& v, ShampooOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("betas", Tuple{{&o.beta1, &o.beta2}}, below_one(), "decay of the momentum and of the factors");
  v.field("eps", &o.eps, at_least(0), "of the largest eigenvalue, added to all");
  v.field("exponent", choice(o.exponent, kExponents), {}, "of the factors' inverse roots");
  v.field("frequency", &o.frequency, count_from(1), "steps between new roots");
  v.field("grafting", choice(o.grafting, kGraftings), {}, "whose direction gives the length of the step");
  v.field("graft_eps", &o.graft_eps, above_only(0), "grafting adam: added to the root of the second moment");
  v.field("max_dimension", &o.max_dimension, count_from(1), "longer sides have no factor");
}

namespace {

class Preconditioner final : public MatrixStage {
 public:
  explicit Preconditioner(const ShampooOptions& o) : o_(o) {
    const Term b2 = second_.number(0), gradient = second_.number(1) * second_.tensor(1);
    second_.assign(0, b2 * second_.tensor(0) + (1 - b2) * square(gradient));
    adam_.assign(
        0, adam_.number(0) * adam_.tensor(1) / (adam_.number(1) * sqrt(adam_.tensor(2)) + adam_.number(2)));
    squares_.sum_of(square(squares_.tensor(0)));
    const Term own = graft_.tensor(1, Extent::one), other = graft_.tensor(2, Extent::one);
    graft_.assign(0, graft_.tensor(0) * choose(above(own, 0), sqrt(other) / sqrt(own), graft_.constant(0)));
    write_root();
  }

  std::vector<StateSlot> state(const Shape& part) const override {
    const Shape left = factor_shape(part.rows(), o_.max_dimension),
                right = factor_shape(part.cols(), o_.max_dimension);
    std::vector<StateSlot> slots = {
        {"momentum", part}, {"left", left}, {"right", right}, {"left_root", left}, {"right_root", right}};
    if (o_.grafting == Grafting::adam) slots.push_back({"square", part});
    return slots;
  }

  double flops(const Shape& part) const override {
    const auto side = [&](std::int64_t own, std::int64_t other) {
      if (!has_factor(own, o_.max_dimension)) return 0.0;
      const auto n = static_cast<double>(own), m = static_cast<double>(other);
      return 3 * n * n * m + 10 * n * n * n / static_cast<double>(o_.frequency);
    };
    return 15.0 * static_cast<double>(part.numel()) + side(part.rows(), part.cols()) +
           side(part.cols(), part.rows());
  }

  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override {
    return StageMemory::bytes(buffers(batches, backend.master()));
  }
  void prepare(Backend& backend, std::span<const Shape> batches) override {
    backend_ = &backend;
    memory_.allocate(backend, buffers(batches, backend.master()));
  }

  Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor&) override {
    const std::int64_t t = context.step + 1;
    for (std::int64_t i = 0; i < batch.size(); ++i) average(context, batch, i);
    // A function of the step alone: with grafting the first roots come at t = f, without it at t = 1.
    const bool rooted = t >= o_.frequency || o_.grafting == Grafting::none;
    if (t % o_.frequency == 0 || (t == 1 && rooted)) {
      make_roots(t, batch, kLeft);
      make_roots(t, batch, kRight);
    }
    const Tensor directions = memory_.view(kDirections, batch.stacked());
    for (std::int64_t i = 0; i < batch.size(); ++i) direct(t, rooted, batch, i, directions.matrix(i));
    return directions;
  }

 private:
  enum Slot : std::size_t { kMomentum, kLeft, kRight, kLeftRoot, kRightRoot, kSquare };
  enum { kDirections, kFirst, kSecond, kVectors, kRoots, kValues, kOwn, kOther };

  std::vector<StageBuffer> buffers(std::span<const Shape> batches, DType master) const {
    std::int64_t squares = 0, values = 0;
    for (const Shape& b : batches)
      for (const std::int64_t n : {b[1], b[2]})
        if (has_factor(n, o_.max_dimension)) {
          squares = std::max(squares, b[0] * n * n);
          values = std::max(values, b[0] * n);
        }
    const std::int64_t matrix = largest_matrix(batches);
    return {{largest_batch(batches), master, "Shampoo's directions"},
            {matrix, master, "Shampoo's products"},
            {matrix, master, "Shampoo's products"},
            {squares, master, "Shampoo's eigenvectors"},
            {squares, master, "Shampoo's roots"},
            {values, master, "Shampoo's eigenvalues"},
            {1, master, "norm of a direction"},
            {1, master, "norm of the grafted direction"}};
  }

  static std::int64_t length(const Shape& part, Slot factor) {
    return factor == kLeft ? part.rows() : part.cols();
  }
  bool has(const Shape& part, Slot factor) const {
    return has_factor(length(part, factor), o_.max_dimension);
  }
  double unbias(double beta, std::int64_t t) const {
    return 1 / (1 - std::pow(beta, static_cast<double>(t)));
  }

  // Column j of the eigenvectors, times the (p / 2)-th root: the root is then their product with its own
  // transpose, which is symmetric to the last bit.
  void write_root() {
    const Term value = root_.tensor(1, Extent::columns), largest = root_.tensor(2, Extent::one);
    const Term x = root_.number(0) * (max(value, 0.0) + root_.number(1) * max(largest, 0.0));
    const Term quarter = sqrt(sqrt(x)), root = o_.exponent == Exponent::half ? quarter : sqrt(quarter);
    // Of a factor of zeros: the identity. All its gradients have been zeros.
    root_.assign(0, root_.tensor(0) * choose(above(largest, 0), 1 / root, root_.constant(1)));
  }

  void average(const StepContext& context, const MatrixBatch& batch, std::int64_t i) {
    const Shape& part = batch.shape();
    const std::int64_t m = part.rows(), n = part.cols();
    const Tensor g = memory_.view(kFirst, part), square_of = memory_.view(kVectors, {m, m});
    backend_->scale(batch.part(i).gradient, context.gradient_scale, g);
    backend_->axpby(1 - o_.beta1, g, o_.beta1, batch.state(i, kMomentum));
    if (has(part, kLeft)) add_left(*backend_, g, o_.beta2, batch.state(i, kLeft), square_of);
    if (has(part, kRight))
      add_right(*backend_, g, o_.beta2, batch.state(i, kRight), memory_.view(kVectors, {n, n}),
                memory_.view(kSecond, {n, m}));
    if (o_.grafting == Grafting::adam)
      backend_->evaluate(second_, {o_.beta2, context.gradient_scale},
                         {batch.state(i, kSquare), batch.part(i).gradient});
  }

  void make_roots(std::int64_t t, const MatrixBatch& batch, Slot factor) {
    if (!has(batch.shape(), factor)) return;
    const std::int64_t n = length(batch.shape(), factor);
    const Tensor vectors = memory_.view(kVectors, {batch.size(), n, n}),
                 roots = memory_.view(kRoots, {batch.size(), n, n}),
                 values = memory_.view(kValues, {batch.size(), n});
    for (std::int64_t i = 0; i < batch.size(); ++i) backend_->copy(batch.state(i, factor), vectors.matrix(i));
    backend_->eigh(vectors, vectors, values);
    const double eps = std::max(o_.eps, spacing(values.dtype));
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      const Tensor row = row_of(values, i);
      backend_->evaluate(root_, {unbias(o_.beta2, t), eps}, {vectors.matrix(i), row, one_of(row, n - 1)});
    }
    backend_->symmetric_product(vectors, 1, {}, 0, roots);
    for (std::int64_t i = 0; i < batch.size(); ++i)
      backend_->copy(roots.matrix(i), batch.state(i, factor == kLeft ? kLeftRoot : kRightRoot));
  }

  void direct(std::int64_t t, bool rooted, const MatrixBatch& batch, std::int64_t i, const Tensor& d) {
    const Shape& part = batch.shape();
    const Tensor m = batch.state(i, kMomentum), first = memory_.view(kFirst, part),
                 second = memory_.view(kSecond, part), own = memory_.view(kOwn, {1}),
                 other = memory_.view(kOther, {1});
    const double mean = unbias(o_.beta1, t);
    const Tensor grafted = rooted ? first : d;
    if (o_.grafting == Grafting::adam)
      backend_->evaluate(adam_, {mean, std::sqrt(unbias(o_.beta2, t)), o_.graft_eps},
                         {grafted, m, batch.state(i, kSquare)});
    else
      backend_->scale(m, mean, grafted);
    if (!rooted) return;
    if (o_.grafting != Grafting::none) backend_->reduce(squares_, {}, {grafted}, Extent::one, other);
    precondition(batch, i, d, second);
    if (o_.grafting == Grafting::none) {
      backend_->scale(d, mean, d);
      return;
    }
    backend_->reduce(squares_, {}, {d}, Extent::one, own);
    backend_->evaluate(graft_, {}, {d, own, other});
  }

  // d = A m B
  void precondition(const MatrixBatch& batch, std::int64_t i, const Tensor& d, const Tensor& between) {
    const bool left = has(batch.shape(), kLeft), right = has(batch.shape(), kRight);
    Tensor x = batch.state(i, kMomentum);
    if (left) {
      const Tensor to = right ? between : d;
      backend_->matmul(batch.state(i, kLeftRoot), false, x, false, 1, 0, to);
      x = to;
    }
    if (right) backend_->matmul(x, false, batch.state(i, kRightRoot), false, 1, 0, d);
    if (!left && !right) backend_->copy(x, d);
  }

  ShampooOptions o_;
  Formula second_, adam_, squares_, graft_, root_;
  Backend* backend_ = nullptr;
  StageMemory memory_;
};

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const ShampooOptions& o, const FinishOptions& finish) {
  check_options("shampoo", o);
  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<Preconditioner>(o));
  const std::string settings =
      fmt::format("betas {} {}, power -{} every {}, eps {}, grafting {}", o.beta1, o.beta2,
                  word_of(kExponents, o.exponent), o.frequency, o.eps, word_of(kGraftings, o.grafting));
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"shampoo", settings, o.lr, o.weight_decay, ShapeScale::none}, std::move(stages),
      finish);
}

RuleOptions shampoo() { return ShampooOptions{}; }

}  // namespace spectrain
