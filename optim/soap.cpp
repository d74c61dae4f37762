#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "optim/check_option.h"
#include "optim/kronecker.h"
#include "optim/matrix_rule.h"
#include "optim/registry.h"
#include "optim/stage_memory.h"

namespace spectrain {

// SOAP (Vyas et al. 2024, 2409.11321): Adam in the eigenbasis of Shampoo's two factors.
//
//   G' = Ql^T G Qr       m = b1 m + (1 - b1) G       v = b2 v + (1 - b2) G'^2
//   D = Ql [c (Ql^T m Qr) / (sqrt(v) + eps)] Qr^T,   c = sqrt(1 - b2^t) / (1 - b1^t)
//   W = (1 - lr decay) W - lr D
//   L = b L + (1 - b) G G^T,   R = b R + (1 - b) G^T G,   after the weights, so that no gradient is projected
//                                                         on a basis that was made of it
//   every f-th t:  sort the columns of Ql and v's rows by diag(Ql^T L Ql), descending; Ql = QR(L Ql); the
//                  same for Qr, R and v's columns
//
// The first step only makes L, R and, by a factorisation, Ql and Qr; t counts from the second. As in the
// authors' code, m is of the gradients themselves, so that a new basis does not touch it, and v stays with
// its directions when they change places, but is not rotated otherwise. b is shampoo_beta, -1: b2. A side
// longer than max_dimension keeps its own basis (Q = I). normalize: D divided by its root mean square before
// c.
//
// Defaults: lr 3e-3, betas 0.95 and 0.95, eps 1e-8, decay 0.01, shampoo_beta -1, f 10, max_dimension 10000.
// State for [m,n]: 2 m n + 2 m^2 + 2 n^2 numbers (momentum, square, left, right, left_basis, right_basis):
// 6 per parameter where m = n, 10.5 at 1:4. Cost: 7 m n (m + n) FLOPs a step in matrix products; every f-th
// step 2 (m^3 + n^3) more and two factorisations by QR, which are not matrix products.
struct SoapOptions {
  double lr = 3e-3, weight_decay = 0.01, beta1 = 0.95, beta2 = 0.95, shampoo_beta = -1, eps = 1e-8;
  std::int64_t frequency = 10, max_dimension = 10000;
  bool normalize = false;
  double factor_decay() const { return shampoo_beta < 0 ? beta2 : shampoo_beta; }
  bool operator==(const SoapOptions&) const = default;
};

const RuleInfo& info_of(const SoapOptions&) {
  static const RuleInfo info{"soap", "Adam on Ql^T G Qr, the eigenbases of averages of G G^T and G^T G",
                             "Vyas et al. 2024 (2409.11321)", true};
  return info;
}

void describe_options(OptionVisitor& v, SoapOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("betas", Tuple{{&o.beta1, &o.beta2}}, below_one(), "decay of the first and second moment");
  v.field("shampoo_beta", &o.shampoo_beta, Range{-1, 1, false, true},
          "decay of the two factors; -1: the second moment's");
  v.field("eps", &o.eps, above_only(0), "added to the root of the second moment");
  v.field("frequency", &o.frequency, count_from(1), "steps between new bases");
  v.field("max_dimension", &o.max_dimension, count_from(1), "longer sides keep their own basis");
  v.field("normalize", &o.normalize, {}, "every direction is scaled to a root mean square of 1");
}

namespace {

class Eigenbasis final : public MatrixStage {
 public:
  explicit Eigenbasis(const SoapOptions& o) : o_(o) {
    const Term b2 = second_.number(0);
    second_.assign(0, b2 * second_.tensor(0) + (1 - b2) * square(second_.tensor(1)));
    divide_.assign(0, divide_.number(0) * divide_.tensor(1) / (sqrt(divide_.tensor(2)) + divide_.number(1)));
    squares_.sum_of(square(squares_.tensor(0)));
    const Term sum = rescale_.tensor(1, Extent::one);
    rescale_.assign(
        0, rescale_.tensor(0) * choose(above(sum, 0), rescale_.number(0) / sqrt(sum), rescale_.constant(0)));
    estimate_.sum_of(estimate_.tensor(0) * estimate_.tensor(1));
  }

  std::vector<StateSlot> state(const Shape& part) const override {
    const Shape left = factor_shape(part.rows(), o_.max_dimension),
                right = factor_shape(part.cols(), o_.max_dimension);
    return {{"momentum", part}, {"square", part},     {"left", left},
            {"right", right},   {"left_basis", left}, {"right_basis", right}};
  }

  // Three projections there or back, half a product for the factor; a product and a QR now and then.
  double flops(const Shape& part) const override {
    const auto side = [&](std::int64_t own, std::int64_t other) {
      if (!has_factor(own, o_.max_dimension)) return 0.0;
      const auto n = static_cast<double>(own), m = static_cast<double>(other);
      return 7 * n * n * m + (2 + 8.0 / 3) * n * n * n / static_cast<double>(o_.frequency);
    };
    return 20.0 * static_cast<double>(part.numel()) + side(part.rows(), part.cols()) +
           side(part.cols(), part.rows());
  }

  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override {
    return StageMemory::bytes(buffers(batches, backend.master()));
  }

  void prepare(Backend& backend, std::span<const Shape> batches) override {
    backend_ = &backend;
    const std::vector<StageBuffer> wanted = buffers(batches, backend.master());
    memory_.allocate(backend, wanted);
    estimates_.resize(static_cast<std::size_t>(wanted[kEstimates].numbers) * size_of(backend.master()));
    order_.resize(static_cast<std::size_t>(wanted[kOrder].numbers));
  }

  Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor&) override {
    const Tensor g = memory_.view(kGradients, batch.stacked());
    for (std::int64_t i = 0; i < batch.size(); ++i)
      backend_->scale(batch.part(i).gradient, context.gradient_scale, g.matrix(i));
    if (begins(context, batch)) {
      add_factors(batch, g);
      first_basis(batch, kLeft);
      first_basis(batch, kRight);
      return {};
    }
    const Tensor directions = memory_.view(kDirections, batch.stacked());
    for (std::int64_t i = 0; i < batch.size(); ++i)
      direct(context, batch, i, g.matrix(i), directions.matrix(i));
    add_factors(batch, g);
    if (context.step % o_.frequency == 0) {
      next_basis(batch, kLeft);
      next_basis(batch, kRight);
    }
    return directions;
  }

  void restart() override { first_step_ = -1; }

 private:
  enum Slot : std::size_t { kMomentum, kSquare, kLeft, kRight, kLeftBasis, kRightBasis };
  enum { kGradients, kDirections, kFirst, kSecond, kSquares, kTurned, kEstimates, kOrder, kSum };

  std::vector<StageBuffer> buffers(std::span<const Shape> batches, DType master) const {
    std::int64_t squares = 0, square = 0, values = 0, side = 0;
    for (const Shape& b : batches)
      for (const std::int64_t n : {b[1], b[2]})
        if (has_factor(n, o_.max_dimension)) {
          squares = std::max(squares, b[0] * n * n);
          square = std::max(square, n * n);
          values = std::max(values, b[0] * n);
          side = std::max(side, n);
        }
    const std::int64_t batch = largest_batch(batches), matrix = largest_matrix(batches);
    return {{batch, master, "copies of gradients"},  {batch, master, "SOAP's directions"},
            {matrix, master, "SOAP's projections"},  {matrix, master, "SOAP's projections"},
            {squares, master, "SOAP's products"},    {square, master, "SOAP's turned basis"},
            {values, master, "SOAP's eigenvalues"},  {side, DType::i32, "SOAP's order of directions"},
            {1, master, "SOAP's norm of directions"}};
  }

  static std::int64_t length(const Shape& part, Slot factor) {
    return factor == kLeft ? part.rows() : part.cols();
  }
  static Slot basis_of(Slot factor) { return factor == kLeft ? kLeftBasis : kRightBasis; }
  bool has(const Shape& part, Slot factor) const {
    return has_factor(length(part, factor), o_.max_dimension);
  }

  // Whether this step is the first of a run that was not resumed. Its number does not say so: a step whose
  // gradient is not finite is left out. All parts begin in the same step.
  bool begins(const StepContext& context, const MatrixBatch& batch) {
    if (first_step_ < 0) {
      first_step_ = context.step;
      const bool left = has(batch.shape(), kLeft);
      resumed_ = left || has(batch.shape(), kRight)
                     ? backend_->sum_of_squares(batch.state(0, left ? kLeftBasis : kRightBasis)) > 0
                     : context.step > 0;
    }
    return !resumed_ && context.step == first_step_;
  }

  void add_factors(const MatrixBatch& batch, const Tensor& gradients) {
    const Shape& part = batch.shape();
    const std::int64_t m = part.rows(), n = part.cols();
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      if (has(part, kLeft))
        add_left(*backend_, gradients.matrix(i), o_.factor_decay(), batch.state(i, kLeft),
                 memory_.view(kTurned, {m, m}));
      if (has(part, kRight))
        add_right(*backend_, gradients.matrix(i), o_.factor_decay(), batch.state(i, kRight),
                  memory_.view(kTurned, {n, n}), memory_.view(kFirst, {n, m}));
    }
  }

  void first_basis(const MatrixBatch& batch, Slot factor) {
    if (!has(batch.shape(), factor)) return;
    const std::int64_t n = length(batch.shape(), factor);
    const Tensor vectors = memory_.view(kSquares, {batch.size(), n, n}),
                 values = memory_.view(kEstimates, {batch.size(), n}), turned = memory_.view(kTurned, {n, n});
    for (std::int64_t i = 0; i < batch.size(); ++i) backend_->copy(batch.state(i, factor), vectors.matrix(i));
    backend_->eigh(vectors, vectors, values);
    for (std::int64_t k = 0; k < n; ++k)  // from ascending to descending
      order_[static_cast<std::size_t>(k)] = static_cast<std::int32_t>(n - 1 - k);
    const Tensor order = write_order(n);
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      backend_->transpose(vectors.matrix(i), turned);
      backend_->gather_rows(turned, order, vectors.matrix(i));
      backend_->transpose(vectors.matrix(i), batch.state(i, basis_of(factor)));
    }
  }

  // One step of the power iteration: Q = QR(L Q), its columns and the second moments in a new order.
  void next_basis(const MatrixBatch& batch, Slot factor) {
    if (!has(batch.shape(), factor)) return;
    const std::int64_t n = length(batch.shape(), factor);
    const Tensor products = memory_.view(kSquares, {batch.size(), n, n}),
                 values = memory_.view(kEstimates, {batch.size(), n}), turned = memory_.view(kTurned, {n, n});
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      const Tensor basis = batch.state(i, basis_of(factor));
      backend_->matmul(batch.state(i, factor), false, basis, false, 1, 0, products.matrix(i));
      backend_->reduce(estimate_, {}, {basis, products.matrix(i)}, Extent::columns, row_of(values, i));
    }
    backend_->copy_to_host(estimates_.data(), values);
    for (std::int64_t i = 0; i < batch.size(); ++i) {
      sort_descending(values.dtype, i, n);
      const Tensor order = write_order(n);
      backend_->transpose(products.matrix(i), turned);
      backend_->gather_rows(turned, order, products.matrix(i));
      backend_->transpose(products.matrix(i), turned);
      backend_->copy(turned, products.matrix(i));
      reorder(batch.state(i, kSquare), factor, order);
    }
    backend_->orthonormal_columns(products);
    for (std::int64_t i = 0; i < batch.size(); ++i)
      backend_->copy(products.matrix(i), batch.state(i, basis_of(factor)));
  }

  void sort_descending(DType dtype, std::int64_t row, std::int64_t n) {
    const auto by = [&](const auto* value) {
      std::iota(order_.begin(), order_.begin() + n, 0);
      std::sort(order_.begin(), order_.begin() + n, [value](std::int32_t a, std::int32_t b) {
        if (value[a] > value[b] || value[b] > value[a]) return value[a] > value[b];
        // NaN last: an order at all, so that the factorisation can say what is wrong.
        if (std::isnan(value[a]) != std::isnan(value[b])) return std::isnan(value[b]);
        return a < b;
      });
    };
    const auto offset = row * n;
    if (dtype == DType::f64)
      by(reinterpret_cast<const double*>(estimates_.data()) + offset);
    else
      by(reinterpret_cast<const float*>(estimates_.data()) + offset);
  }
  Tensor write_order(std::int64_t n) {
    const Tensor order = memory_.view(kOrder, {n});
    backend_->copy_from_host(order, order_.data());
    return order;
  }

  // Rows (left) or columns (right) of v [m,n] in a new order.
  void reorder(const Tensor& v, Slot factor, const Tensor& order) {
    if (factor == kLeft) {
      const Tensor sorted = memory_.view(kFirst, v.shape);
      backend_->gather_rows(v, order, sorted);
      backend_->copy(sorted, v);
      return;
    }
    const Shape turned{v.cols(), v.rows()};
    const Tensor columns = memory_.view(kFirst, turned), sorted = memory_.view(kSecond, turned);
    backend_->transpose(v, columns);
    backend_->gather_rows(columns, order, sorted);
    backend_->transpose(sorted, v);
  }

  // Ql^T x Qr, or Ql x Qr^T: x where there is no factor, else in the buffers `first` and then `second`, the
  // last of them `last` if that is given.
  Tensor turn(const MatrixBatch& batch, std::int64_t i, Tensor x, bool back, Tensor first, Tensor second,
              const Tensor& last = {}) {
    const bool left = has(batch.shape(), kLeft), right = has(batch.shape(), kRight);
    if (last) (left && right ? second : first) = last;
    if (left) {
      backend_->matmul(batch.state(i, kLeftBasis), !back, x, false, 1, 0, first);
      x = first;
      first = second;
    }
    if (right) {
      backend_->matmul(x, false, batch.state(i, kRightBasis), back, 1, 0, first);
      x = first;
    }
    return x;
  }

  void direct(const StepContext& context, const MatrixBatch& batch, std::int64_t i, const Tensor& g,
              const Tensor& direction) {
    const Shape& part = batch.shape();
    const Tensor first = memory_.view(kFirst, part), second = memory_.view(kSecond, part),
                 m = batch.state(i, kMomentum), v = batch.state(i, kSquare);
    const auto t = static_cast<double>(context.step);
    const double unbias = std::sqrt(1 - std::pow(o_.beta2, t)) / (1 - std::pow(o_.beta1, t));
    backend_->axpby(1 - o_.beta1, g, o_.beta1, m);
    backend_->evaluate(second_, {o_.beta2}, {v, turn(batch, i, g, false, first, second)});
    const Tensor mean = turn(batch, i, m, false, first, second);
    const bool factors = has(part, kLeft) || has(part, kRight);
    const Tensor divided = !factors ? direction : mean.data == first.data ? second : first;
    backend_->evaluate(divide_, {o_.normalize ? 1.0 : unbias, o_.eps}, {divided, mean, v});
    const Tensor spare = divided.data == first.data ? second : first;
    if (factors) turn(batch, i, divided, true, spare, direction, direction);
    if (!o_.normalize) return;
    const Tensor sum = memory_.view(kSum, {1});
    backend_->reduce(squares_, {}, {direction}, Extent::one, sum);
    backend_->evaluate(rescale_, {unbias * std::sqrt(static_cast<double>(part.numel()))}, {direction, sum});
  }

  SoapOptions o_;
  Formula second_, divide_, squares_, rescale_, estimate_;
  Backend* backend_ = nullptr;
  StageMemory memory_;
  std::vector<std::byte> estimates_;  // on the host
  std::vector<std::int32_t> order_;
  std::int64_t first_step_ = -1;  // of this process
  bool resumed_ = false;
};

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const SoapOptions& o, const FinishOptions& finish) {
  check_options("soap", o);
  std::vector<std::unique_ptr<MatrixStage>> stages;
  stages.push_back(std::make_unique<Eigenbasis>(o));
  const std::string settings =
      fmt::format("betas {} {}, factors {} every {}, eps {}{}", o.beta1, o.beta2, o.factor_decay(),
                  o.frequency, o.eps, o.normalize ? ", normalized" : "");
  return std::make_unique<MatrixRule>(
      MatrixRuleSettings{"soap", settings, o.lr, o.weight_decay, ShapeScale::none}, std::move(stages),
      finish);
}

RuleOptions soap() { return SoapOptions{}; }

}  // namespace spectrain
