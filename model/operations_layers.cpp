#include <span>

#include "model/operation_parts.h"
#include "model/operations.h"

// Operations of networks that are not transformers: batch norm, other losses. All are made of the backend's
// kernels and formulas.

namespace spectrain {
namespace {

// In place wherever memory allows: then nothing is done.
class Reshape final : public Operation {
 public:
  explicit Reshape(Shape shape) : shape_(shape) {}
  std::string_view name() const override { return "reshape"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0].numel() == shape_.numel(), name(), in);
    return {{shape_, false}};
  }
  void forward(const Run& r) const override {
    if (r.in[0].data != r.out[0].data) r.backend->copy(r.in[0], r.out[0]);
  }
  void backward(const Run& r) const override {
    if (r.dout[0].data != r.din[0].data) r.backend->copy(r.dout[0], r.din[0]);
  }
  bool forward_in_place() const override { return true; }
  bool backward_in_place() const override { return true; }

 private:
  Shape shape_;
};

// Statistics are outputs 1 and 2: the mean and 1 / sqrt(variance + eps) of each column; inputs 3 and 4, where
// they are there, the running mean and variance. The backward pass:
//   h = (x - mean) rstd;  dbias = sum dy;  dgain = sum dy h;
//   dx = rstd (g - mean(g) - h mean(g h)),  g = dy gain,  so with the sums above: mean(g) = gain dbias / R
class BatchNorm final : public Operation {
 public:
  BatchNorm(double eps, double momentum) : eps_(eps), momentum_(momentum) {
    if (!(momentum >= 0 && momentum <= 1)) throw std::logic_error("batch_norm: momentum in [0, 1]");
    // tensors: running statistic, the batch's sum; numbers: 1 - momentum, momentum / count
    running_.assign(0, running_.number(0) * running_.tensor(0) + running_.number(1) * running_.tensor(1));
    sum_.sum_of(sum_.tensor(0));
    squares_.sum_of(square(squares_.tensor(0) - squares_.tensor(1, Extent::columns)));
    // tensors: result, sums; numbers: 1 / R, eps
    mean_.assign(0, mean_.number(0) * mean_.tensor(1));
    rstd_.assign(0, 1 / sqrt(rstd_.number(0) * rstd_.tensor(1) + rstd_.number(1)));
    for (int with_gain = 0; with_gain < 2; ++with_gain)
      for (int with_bias = 0; with_bias < 2; ++with_bias) {
        Formula& f = forward_[with_gain][with_bias];
        Term y = (f.tensor(0) - f.tensor(2, Extent::columns)) * f.tensor(3, Extent::columns);
        if (with_gain) y = y * f.tensor(4, Extent::columns);
        if (with_bias) y = y + f.tensor(4 + with_gain, Extent::columns);
        f.assign(1, y);
      }
    along_.sum_of(along_.tensor(0) * (along_.tensor(1) - along_.tensor(2, Extent::columns)) *
                  along_.tensor(3, Extent::columns));
    for (int with_gain = 0; with_gain < 2; ++with_gain)
      for (int add = 0; add < 2; ++add) {
        // tensors: dx, dy, x, mean, rstd, dbias, dgain, gain; number: 1 / R
        Formula& f = backward_[with_gain][add];
        const Term rstd = f.tensor(4, Extent::columns), n = f.number(0);
        const Term h = (f.tensor(2) - f.tensor(3, Extent::columns)) * rstd;
        Term dx =
            rstd * (f.tensor(1) - n * f.tensor(5, Extent::columns) - h * (n * f.tensor(6, Extent::columns)));
        if (with_gain) dx = dx * f.tensor(7, Extent::columns);
        f.assign(0, add ? f.tensor(0) + dx : dx);
      }
    add_.assign(0, add_.tensor(0) + add_.tensor(1));
  }
  std::string_view name() const override { return "batch_norm"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    const Shape vector{in[0].cols()};
    bool fits = in[0].rank() == 2 && (in[3].rank() == 0) == (in[4].rank() == 0);
    for (std::size_t i = 1; i < in.size(); ++i) fits = fits && (in[i].rank() == 0 || in[i] == vector);
    require_fit(fits && (in[3].rank() == 0 || in[0].rows() > 1), name(), in);
    return {{in[0], false}, {vector, true}, {vector, true}};
  }
  void forward(const Run& r) const override {
    const Tensor &x = r.in[0], &mean = r.out[1], &rstd = r.out[2];
    if (r.training || !r.in[3]) {
      of_the_batch(r);
    } else {
      r.backend->copy(r.in[3], mean);
      r.backend->evaluate(rstd_, {1, eps_}, {rstd, r.in[4]});
    }
    std::vector<Tensor> tensors{x, r.out[0], mean, rstd};
    for (const std::size_t i : {1u, 2u})
      if (r.in[i]) tensors.push_back(r.in[i]);
    r.backend->evaluate(forward_[r.in[1] ? 1 : 0][r.in[2] ? 1 : 0], std::span<const double>{}, tensors);
  }
  void backward(const Run& r) const override {
    const Tensor &x = r.in[0], &dy = r.dout[0], &mean = r.out[1], &rstd = r.out[2];
    Pieces pieces(r);
    const Tensor dbias = pieces.take(mean.dtype, mean.shape), dgain = pieces.take(mean.dtype, mean.shape);
    r.backend->reduce(sum_, {}, {dy}, Extent::columns, dbias);
    r.backend->reduce(along_, {}, {dy, x, mean, rstd}, Extent::columns, dgain);
    if (r.din[0]) {
      std::vector<Tensor> tensors{r.din[0], dy, x, mean, rstd, dbias, dgain};
      if (r.in[1]) tensors.push_back(r.in[1]);
      const double share[] = {1 / static_cast<double>(x.rows())};
      r.backend->evaluate(backward_[r.in[1] ? 1 : 0][r.accumulate[0] ? 1 : 0], share, tensors);
    }
    deliver(r, 1, dgain);
    deliver(r, 2, dbias);
  }
  bool backward_reads_input(std::size_t i) const override { return i < 2; }
  bool backward_reads_output(std::size_t i) const override { return i > 0; }
  bool differentiable_input(std::size_t i) const override { return i < 3; }
  bool accumulates(std::size_t) const override { return true; }
  std::size_t workspace_bytes(const std::vector<Shape>& in, DType compute, DType, bool,
                              std::size_t) const override {
    return 2 * Pieces::room(static_cast<std::size_t>(in[0].cols()) * size_of(master_of(compute)));
  }

 private:
  void of_the_batch(const Run& r) const {
    const Tensor &x = r.in[0], &mean = r.out[1], &rstd = r.out[2];
    const double share = 1 / static_cast<double>(x.rows());
    r.backend->reduce(sum_, {}, {x}, Extent::columns, mean);
    r.backend->evaluate(mean_, {share}, {mean, mean});
    r.backend->reduce(squares_, {}, {x, mean}, Extent::columns, rstd);
    if (r.in[3]) {
      const double spread = momentum_ / static_cast<double>(x.rows() - 1);
      r.backend->evaluate(running_, {1 - momentum_, momentum_}, {r.in[3], mean});
      r.backend->evaluate(running_, {1 - momentum_, spread}, {r.in[4], rstd});
    }
    r.backend->evaluate(rstd_, {share, eps_}, {rstd, rstd});
  }
  void deliver(const Run& r, std::size_t i, const Tensor& gradient) const {
    if (!r.din[i]) return;
    if (r.accumulate[i])
      r.backend->evaluate(add_, {}, {r.din[i], gradient});
    else
      r.backend->copy(gradient, r.din[i]);
  }
  double eps_, momentum_;
  Formula running_, sum_, squares_, mean_, rstd_, forward_[2][2], along_, backward_[2][2], add_;
};

class SquaredError final : public Operation {
 public:
  SquaredError() {
    for (int masked = 0; masked < 2; ++masked) {
      Formula& loss = loss_[masked];
      Term half = 0.5 * square(loss.tensor(0) - loss.tensor(1));
      loss.sum_of(masked ? half * loss.tensor(2) : half);
      for (int add = 0; add < 2; ++add) {
        Formula& f = gradient_[masked][add];
        Term g = f.number(0) * (f.tensor(1) - f.tensor(2));
        if (masked) g = g * f.tensor(3);
        f.assign(0, add ? f.tensor(0) + g : g);
      }
    }
  }
  std::string_view name() const override { return "squared_error"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0].rank() == 2 && in[1] == in[0] && (in[2].rank() == 0 || in[2] == in[0]), name(), in);
    return {{Shape{in[0].rows()}, true}};
  }
  void forward(const Run& r) const override {
    std::vector<Tensor> tensors{r.in[0], r.in[1]};
    if (r.in[2]) tensors.push_back(r.in[2]);
    r.backend->reduce(loss_[r.in[2] ? 1 : 0], std::span<const double>{}, tensors, Extent::rows, r.out[0]);
  }
  void backward(const Run& r) const override {
    forward(r);
    if (!r.din[0]) return;
    std::vector<Tensor> tensors{r.din[0], r.in[0], r.in[1]};
    if (r.in[2]) tensors.push_back(r.in[2]);
    const double scale[] = {r.gradient_scale};
    r.backend->evaluate(gradient_[r.in[2] ? 1 : 0][r.accumulate[0] ? 1 : 0], scale, tensors);
  }
  bool backward_reads_input(std::size_t) const override { return true; }
  bool differentiable_input(std::size_t i) const override { return i == 0; }
  bool accumulates(std::size_t) const override { return true; }
  bool is_loss() const override { return true; }

 private:
  Formula loss_[2], gradient_[2][2];
};

// Smoothing adds s (z_target - mean z) to the cross entropy, which is linear in the logits:
//   -sum_k ((1 - s) [k = t] + s / K) log p_k = -log p_t + s (z_t - sum_k z_k / K)
// [k = t] is taken from the gradient of the cross entropy at logits of zero, which is 1 / K - [k = t]:
// exactly the gradient of the term, but for its sign.
class ClassLoss final : public Operation {
 public:
  explicit ClassLoss(double smoothing) : smoothing_(smoothing) {
    if (!(smoothing >= 0 && smoothing < 1)) throw std::logic_error("class_loss: smoothing in [0, 1)");
    term_.sum_of(term_.number(0) * term_.tensor(0) * term_.tensor(1));
    loss_.assign(0, loss_.tensor(0) + loss_.tensor(1));
    for (int add = 0; add < 2; ++add) {
      Formula& f = gradient_[add];
      f.assign(0, add ? f.tensor(0) + f.tensor(1) : f.tensor(1));
      Formula& s = smoothed_[add];
      const Term g = s.tensor(1) + s.number(0) * s.tensor(2);
      s.assign(0, add ? s.tensor(0) + g : g);
    }
  }
  std::string_view name() const override { return "class_loss"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0].rank() == 2 && in[1].numel() == in[0].rows(), name(), in);
    return {{Shape{in[0].rows()}, true}};
  }
  void forward(const Run& r) const override { evaluate(r, false); }
  void backward(const Run& r) const override { evaluate(r, true); }
  bool backward_reads_input(std::size_t) const override { return true; }
  bool differentiable_input(std::size_t i) const override { return i == 0; }
  bool accumulates(std::size_t) const override { return true; }
  bool is_loss() const override { return true; }
  std::size_t workspace_bytes(const std::vector<Shape>& in, DType, DType, bool, std::size_t) const override {
    // logits, gradients and targets in dtypes of up to 8 bytes, and two vectors of losses
    return 3 * Pieces::room(static_cast<std::size_t>(in[0].numel()) * 8) +
           2 * Pieces::room(static_cast<std::size_t>(in[0].rows()) * 8);
  }

 private:
  void evaluate(const Run& r, bool training) const {
    Backend& b = *r.backend;
    const Shape shape = r.in[0].shape;
    const DType master = master_of(r.compute);
    Pieces pieces(r);
    const Tensor logits = pieces.take(b.logits(r.compute), shape), off = pieces.take(master, shape),
                 dlogits = pieces.take(master, shape), losses = pieces.take(master, Shape{shape.rows()});
    const auto cross_entropy = [&](double scale, const Tensor& out, const Tensor& gradient) {
      b.cross_entropy(logits, r.in[1], shape.cols(), {}, scale, out, gradient);
    };
    if (smoothing_ > 0) {
      b.fill(logits, 0);
      cross_entropy(1, losses, off);  // 1 / K - [k = target]
    }
    b.copy(r.in[0], logits);
    cross_entropy(training ? r.gradient_scale : 0, r.out[0], training ? dlogits : Tensor{});
    if (smoothing_ > 0) {
      b.reduce(term_, {-smoothing_}, {r.in[0], off}, Extent::rows, losses);
      b.evaluate(loss_, {}, {r.out[0], losses});
    }
    if (!training || !r.din[0]) return;
    const bool add = r.accumulate[0] != 0;
    if (smoothing_ > 0)
      b.evaluate(smoothed_[add], {-smoothing_ * r.gradient_scale}, {r.din[0], dlogits, off});
    else
      b.evaluate(gradient_[add], {}, {r.din[0], dlogits});
  }
  double smoothing_;
  Formula term_, loss_, gradient_[2], smoothed_[2];
};

}  // namespace

std::unique_ptr<Operation> make_reshape(Shape shape) { return std::make_unique<Reshape>(shape); }
std::unique_ptr<Operation> make_batch_norm(double eps, double momentum) {
  return std::make_unique<BatchNorm>(eps, momentum);
}
std::unique_ptr<Operation> make_squared_error() { return std::make_unique<SquaredError>(); }
std::unique_ptr<Operation> make_class_loss(double smoothing) {
  return std::make_unique<ClassLoss>(smoothing);
}

}  // namespace spectrain
