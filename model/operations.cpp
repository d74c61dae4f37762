#include "model/operations.h"

#include <fmt/format.h>

namespace spectrain {
namespace {

void require(bool ok, std::string_view op, std::string_view what, const std::vector<Shape>& in) {
  if (ok) return;
  std::string shapes;
  for (const Shape& s : in) shapes += " " + s.str();
  throw std::logic_error(fmt::format("{}: {} (inputs{})", op, what, shapes));
}

void linear_parameter_gradients(const Run& r) {
  if (r.din[1]) r.backend->linear_backward_weight(r.dout[0], r.in[0], r.din[1], r.accumulate[1]);
  if (r.din[2]) r.backend->bias_gradient(r.dout[0], r.din[2], r.accumulate[2]);
}

class Linear final : public Operation {
 public:
  std::string_view name() const override { return "linear"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require(in[1].rank() == 2 && in[0].cols() == in[1][1], name(), "x [R,K] and w [N,K] do not fit", in);
    require(in[2].rank() == 0 || in[2] == Shape{in[1][0]}, name(), "bias must be [N]", in);
    return {{Shape{in[0].rows(), in[1][0]}, false}};
  }
  void forward(const Run& r) const override {
    r.backend->linear(r.in[0], *r.prepared[1], r.in[2], Activation::none, {}, r.out[0]);
  }
  void backward(const Run& r) const override {
    linear_parameter_gradients(r);
    if (r.din[0]) r.backend->linear_backward_input(r.dout[0], *r.prepared[1], r.din[0], r.accumulate[0]);
  }
  bool backward_reads_input(std::size_t i) const override { return i == 0; }
  bool prepared_input(std::size_t i) const override { return i == 1; }
  bool accumulates(std::size_t) const override { return true; }
  double flops(const Run& r, bool backward) const override {
    return product_flops(backward ? r.dout[0].rows() : r.in[0].rows(), r, backward);
  }
};

class ActivationOperation final : public Operation {
 public:
  explicit ActivationOperation(Activation act) : act_(act) {}
  std::string_view name() const override { return "activation"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override { return {{in[0], false}}; }
  void forward(const Run& r) const override { r.backend->activation(act_, r.in[0], r.out[0]); }
  void backward(const Run& r) const override {
    r.backend->activation_backward(act_, r.dout[0], saves_output(act_) ? r.out[0] : r.in[0], r.din[0]);
  }
  bool backward_reads_input(std::size_t) const override { return !saves_output(act_); }
  bool backward_reads_output(std::size_t) const override { return saves_output(act_); }
  bool forward_in_place() const override { return true; }
  bool backward_in_place() const override { return true; }
  bool cheap() const override { return true; }
  const Activation& act() const { return act_; }

 private:
  Activation act_;
};

class Swiglu final : public Operation {
 public:
  std::string_view name() const override { return "swiglu"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require(in[0].cols() % 2 == 0, name(), "gate | up needs an even width", in);
    return {{Shape{in[0].rows(), in[0].cols() / 2}, false}};
  }
  void forward(const Run& r) const override { r.backend->swiglu(r.in[0], r.out[0]); }
  void backward(const Run& r) const override { r.backend->swiglu_backward(r.dout[0], r.in[0], r.din[0]); }
  bool backward_reads_input(std::size_t) const override { return true; }
  bool cheap() const override { return true; }
};

class Add final : public Operation {
 public:
  std::string_view name() const override { return "add"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require(in[0] == in[1], name(), "both terms must have one shape", in);
    return {{in[0], false}};
  }
  void forward(const Run& r) const override { r.backend->add(r.in[0], r.in[1], r.out[0]); }
  void backward(const Run&) const override {}
  bool forward_in_place() const override { return true; }
  bool passes_gradient() const override { return true; }
};

class Scale final : public Operation {
 public:
  explicit Scale(double factor) : factor_(factor) {}
  std::string_view name() const override { return "scale"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override { return {{in[0], false}}; }
  void forward(const Run& r) const override { r.backend->scale(r.in[0], factor_, r.out[0]); }
  void backward(const Run& r) const override { r.backend->scale(r.dout[0], factor_, r.din[0]); }
  bool forward_in_place() const override { return true; }
  bool backward_in_place() const override { return true; }

 private:
  double factor_;
};

class Norm final : public Operation {
 public:
  Norm(NormKind kind, double eps) : options_{kind, eps} {}
  std::string_view name() const override { return "norm"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    const Shape vector{in[0].cols()};
    require((in[1].rank() == 0 || in[1] == vector) && (in[2].rank() == 0 || in[2] == vector), name(),
            "gain and bias must be [C]", in);
    std::vector<ValueSpec> out{{in[0], false}, {Shape{in[0].rows()}, true}};
    if (options_.kind == NormKind::layer) out.push_back({Shape{in[0].rows()}, true});
    return out;
  }
  void forward(const Run& r) const override {
    r.backend->norm(options_.kind, r.in[0], r.in[1], r.in[2], options_.eps, r.out[0], mean(r), r.out[1]);
  }
  void backward(const Run& r) const override {
    r.backend->norm_backward(options_.kind, r.dout[0], r.in[0], r.in[1], mean(r), r.out[1], r.din[0],
                             r.accumulate[0], r.din[1], r.din[2], r.accumulate[1] || r.accumulate[2]);
  }
  bool backward_reads_input(std::size_t i) const override { return i == 0; }
  bool backward_reads_output(std::size_t i) const override { return i > 0; }
  bool accumulates(std::size_t) const override { return true; }
  bool cheap() const override { return true; }

  static Tensor mean(const Run& r) { return r.out.size() > 2 ? r.out[2] : Tensor{}; }
  const NormOptions& options() const { return options_; }

 private:
  NormOptions options_;
};

class QkTransformOperation final : public Operation {
 public:
  QkTransformOperation(const HeadLayout& layout, bool norm, double eps, RotaryPairs pairs, int sign)
      : layout_(layout), norm_(norm), eps_(eps), pairs_(pairs), sign_(sign) {}
  std::string_view name() const override { return "qk_transform"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require(in[0] == Shape{layout_.rows(), layout_.packed()}, name(), "qkv does not fit the head layout", in);
    std::vector<ValueSpec> out{{in[0], false}};
    if (norm_) out.push_back({Shape{layout_.rows(), layout_.heads + layout_.kv_heads}, true});
    return out;
  }
  void forward(const Run& r) const override {
    r.backend->qk_transform(layout_, transform(r), r.in[0], r.out[0], rstd(r));
  }
  void backward(const Run& r) const override {
    r.backend->qk_transform_backward(layout_, transform(r), r.dout[0], r.out[0], rstd(r), r.din[0]);
  }
  bool backward_reads_input(std::size_t i) const override { return i > 0; }
  bool backward_reads_output(std::size_t) const override { return true; }
  bool differentiable_input(std::size_t i) const override { return i == 0; }
  bool forward_in_place() const override { return true; }
  bool backward_in_place() const override { return true; }

 private:
  QkTransform transform(const Run& r) const { return {norm_, eps_, r.in[1], r.in[2], pairs_, sign_}; }
  static Tensor rstd(const Run& r) { return r.out.size() > 1 ? r.out[1] : Tensor{}; }
  HeadLayout layout_;
  bool norm_;
  double eps_;
  RotaryPairs pairs_;
  int sign_;
};

class AttentionOperation final : public Operation {
 public:
  AttentionOperation(const HeadLayout& layout, double scale) : layout_(layout), scale_(scale) {}
  std::string_view name() const override { return "attention"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require(in[0] == Shape{layout_.rows(), layout_.packed()}, name(), "qkv does not fit the head layout", in);
    require(in[1].rank() == 0 || in[1].numel() == layout_.rows(), name(), "a first key for each query", in);
    return {{Shape{layout_.rows(), layout_.width()}, false},
            {Shape{layout_.batch, layout_.heads, layout_.context}, true}};
  }
  void forward(const Run& r) const override {
    r.backend->attention(layout_, scale_, r.in[0], r.in[1], r.out[0], r.out[1]);
  }
  void backward(const Run& r) const override {
    r.backend->attention_backward(layout_, scale_, r.dout[0], r.in[0], r.in[1], r.out[0], r.out[1], r.din[0]);
  }
  bool backward_reads_input(std::size_t) const override { return true; }
  bool backward_reads_output(std::size_t) const override { return true; }
  bool differentiable_input(std::size_t i) const override { return i == 0; }
  // Two products over the pairs of query and key that see each other, and five in the backward pass, which
  // makes the scores again (Dao 2023, FlashAttention-2).
  double flops(const Run& r, bool backward) const override {
    return (backward ? 10.0 : 4.0) * pairs(r) * static_cast<double>(layout_.width());
  }

 private:
  double pairs(const Run& r) const {
    const auto t = static_cast<double>(layout_.context);
    double all = static_cast<double>(layout_.batch) * t * (t + 1) / 2;
    if (!r.in[1]) return all;
    std::vector<std::int32_t> first(static_cast<std::size_t>(r.in[1].numel()));
    r.backend->copy_to_host(first.data(), r.in[1]);
    for (const std::int32_t unseen : first) all -= unseen;
    return all;
  }
  HeadLayout layout_;
  double scale_;
};

}  // namespace

double product_flops(std::int64_t rows, const Run& r, bool backward) {
  const double once = 2.0 * static_cast<double>(rows) * static_cast<double>(r.prepared[1]->rows()) *
                      static_cast<double>(r.prepared[1]->cols());
  return backward ? once * ((r.din[0] ? 1 : 0) + (r.din[1] ? 1 : 0)) : once;
}

std::unique_ptr<Operation> make_linear() { return std::make_unique<Linear>(); }
std::unique_ptr<Operation> make_activation(Activation act) {
  return std::make_unique<ActivationOperation>(act);
}
std::unique_ptr<Operation> make_swiglu() { return std::make_unique<Swiglu>(); }
std::unique_ptr<Operation> make_add() { return std::make_unique<Add>(); }
std::unique_ptr<Operation> make_scale(double factor) { return std::make_unique<Scale>(factor); }
std::unique_ptr<Operation> make_norm(NormKind kind, double eps) { return std::make_unique<Norm>(kind, eps); }
std::unique_ptr<Operation> make_qk_transform(const HeadLayout& layout, bool norm, double eps,
                                             RotaryPairs pairs, int sign) {
  return std::make_unique<QkTransformOperation>(layout, norm, eps, pairs, sign);
}
std::unique_ptr<Operation> make_attention(const HeadLayout& layout, double scale) {
  return std::make_unique<AttentionOperation>(layout, scale);
}

const Activation* activation_of(const Operation& op) {
  const auto* a = dynamic_cast<const ActivationOperation*>(&op);
  return a ? &a->act() : nullptr;
}
const NormOptions* norm_of(const Operation& op) {
  const auto* n = dynamic_cast<const Norm*>(&op);
  return n ? &n->options() : nullptr;
}
bool is_linear(const Operation& op) { return dynamic_cast<const Linear*>(&op) != nullptr; }
bool is_add(const Operation& op) { return dynamic_cast<const Add*>(&op) != nullptr; }

void linear_activation_forward(const Run& r, Activation act, const Tensor& pre, const Tensor& y) {
  r.backend->linear(r.in[0], *r.prepared[1], r.in[2], act, pre, y);
}

void linear_activation_backward(const Run& r, Activation act, const Tensor& saved) {
  linear_parameter_gradients(r);
  r.backend->linear_activation_backward(r.dout[0], *r.prepared[1], act, saved, r.din[0]);
}
void add_norm_forward(const Run& add, const NormOptions& o, const Run& n) {
  n.backend->add_norm(o.kind, add.in[0], add.in[1], n.in[1], n.in[2], o.eps, add.out[0], n.out[0],
                      Norm::mean(n), n.out[1]);
}

}  // namespace spectrain
