#include <optional>

#include "model/operation_parts.h"
#include "model/operations.h"

// Operations that put values together: weighted sums, parts of rows, gates, the row before. They are made of
// the backend's formulas and copies.

namespace spectrain {
namespace {

class Mix final : public Operation {
 public:
  static constexpr std::size_t kMost = 3;

  explicit Mix(std::vector<MixFactor> factors) : factors_(std::move(factors)) {
    if (factors_.empty() || factors_.size() > kMost) throw std::logic_error("mix: one to three terms");
    const auto n = static_cast<std::int32_t>(factors_.size());
    std::optional<Term> sum;
    std::int32_t next = n + 1;  // the weights come after the terms and the sum
    for (std::int32_t i = 0; i < n; ++i) {
      const auto k = static_cast<std::size_t>(i);
      const MixFactor& m = factors_[k];
      const Term term = factor(forward_, m, next) * forward_.tensor(i);
      if (m.weight >= 0) ++next;
      sum = i == 0 ? term : *sum + term;
      gradient_[k].assign(0, factor(gradient_[k], m, 2) * gradient_[k].tensor(1));
      added_gradient_[k].assign(
          0, added_gradient_[k].tensor(0) + factor(added_gradient_[k], m, 2) * added_gradient_[k].tensor(1));
    }
    forward_.assign(n, *sum);
    along_.sum_of(along_.tensor(0) * along_.tensor(1));
    into_weight_.assign(0, into_weight_.tensor(0) + into_weight_.number(0) * into_weight_.tensor(1));
  }
  std::string_view name() const override { return "mix"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    const std::size_t n = factors_.size();
    bool fits = in.size() >= n;
    for (std::size_t i = 0; fits && i < in.size(); ++i)
      fits =
          i < n ? in[i] == in[0] && factors_[i].weight < static_cast<int>(in.size() - n) : in[i] == Shape{1};
    require_fit(fits, name(), in);
    return {{in[0], false}};
  }
  void forward(const Run& r) const override {
    std::vector<Tensor> tensors = terms(r);
    tensors.push_back(r.out[0]);
    for (const MixFactor& f : factors_)
      if (f.weight >= 0) tensors.push_back(weight(r, f));
    r.backend->evaluate(forward_, std::span<const double>{}, tensors);
  }
  void backward(const Run& r) const override {
    for (std::size_t i = 0; i < factors_.size(); ++i) {
      if (!r.din[i]) continue;
      std::vector<Tensor> tensors{r.din[i], r.dout[0]};
      if (factors_[i].weight >= 0) tensors.push_back(weight(r, factors_[i]));
      r.backend->evaluate(r.accumulate[i] ? added_gradient_[i] : gradient_[i], std::span<const double>{},
                          tensors);
    }
    for (std::size_t w = factors_.size(); w < r.in.size(); ++w)
      if (r.din[w]) weight_gradient(r, w);
  }
  bool backward_reads_input(std::size_t) const override { return true; }
  bool accumulates(std::size_t) const override { return true; }
  std::size_t workspace_bytes(const std::vector<Shape>&, DType, DType, bool, std::size_t) const override {
    return 64;
  }

 private:
  // The factor as a term of f, its weight, if it has one, tensors[at].
  static Term factor(Formula& f, const MixFactor& m, std::int32_t at) {
    if (m.weight < 0) return f.constant(m.constant);
    return m.constant + m.slope * f.tensor(at, Extent::one);
  }
  std::vector<Tensor> terms(const Run& r) const {
    return {r.in.begin(), r.in.begin() + static_cast<std::ptrdiff_t>(factors_.size())};
  }
  Tensor weight(const Run& r, const MixFactor& f) const {
    return r.in[factors_.size() + static_cast<std::size_t>(f.weight)];
  }
  // d w (+)= sum over its terms of slope sum(dout x)
  void weight_gradient(const Run& r, std::size_t w) const {
    const Tensor sum = Pieces(r).take(master_of(r.compute), Shape{1});
    if (!r.accumulate[w]) r.backend->fill(r.din[w], 0);
    for (std::size_t i = 0; i < factors_.size(); ++i) {
      if (factors_[i].weight < 0 || factors_.size() + static_cast<std::size_t>(factors_[i].weight) != w)
        continue;
      r.backend->reduce(along_, {}, {r.dout[0], r.in[i]}, Extent::one, sum);
      r.backend->evaluate(into_weight_, {factors_[i].slope}, {r.din[w], sum});
    }
  }

  std::vector<MixFactor> factors_;
  Formula forward_, gradient_[kMost], added_gradient_[kMost], along_, into_weight_;
};

class Columns final : public Operation {
 public:
  Columns(std::int64_t first, std::int64_t count) : first_(first), count_(count) {}
  std::string_view name() const override { return "columns"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0].rank() == 2 && first_ >= 0 && count_ >= 1 && first_ + count_ <= in[0].cols(), name(),
                in);
    return {{Shape{in[0].rows(), count_}, false}};
  }
  void forward(const Run& r) const override {
    r.backend->copy_columns(r.in[0], first_, r.out[0], 0, count_, false);
  }
  void backward(const Run& r) const override {
    const std::int64_t after = first_ + count_;
    if (!r.accumulate[0]) {
      r.backend->copy_columns({}, 0, r.din[0], 0, first_, false);
      r.backend->copy_columns({}, 0, r.din[0], after, r.din[0].cols() - after, false);
    }
    r.backend->copy_columns(r.dout[0], 0, r.din[0], first_, count_, r.accumulate[0]);
  }
  bool accumulates(std::size_t) const override { return true; }
  bool cheap() const override { return true; }

 private:
  std::int64_t first_, count_;
};

class WithColumns final : public Operation {
 public:
  WithColumns(std::int64_t first, std::int64_t count) : first_(first), count_(count) {}
  std::string_view name() const override { return "with_columns"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0].rank() == 2 && in[1] == Shape{in[0].rows(), count_} && first_ >= 0 &&
                    first_ + count_ <= in[0].cols(),
                name(), in);
    return {{in[0], false}};
  }
  void forward(const Run& r) const override {
    if (r.out[0].data != r.in[0].data) r.backend->copy(r.in[0], r.out[0]);
    r.backend->copy_columns(r.in[1], 0, r.out[0], first_, count_, false);
  }
  void backward(const Run& r) const override {
    // The columns first: what is left of the gradient may be made in its place.
    const std::int64_t all = r.dout[0].cols(), after = first_ + count_;
    if (r.din[1]) r.backend->copy_columns(r.dout[0], first_, r.din[1], 0, count_, r.accumulate[1]);
    if (!r.din[0]) return;
    if (r.accumulate[0]) {
      r.backend->copy_columns(r.dout[0], 0, r.din[0], 0, first_, true);
      r.backend->copy_columns(r.dout[0], after, r.din[0], after, all - after, true);
      return;
    }
    if (r.din[0].data != r.dout[0].data) r.backend->copy(r.dout[0], r.din[0]);
    r.backend->copy_columns({}, 0, r.din[0], first_, count_, false);
  }
  bool accumulates(std::size_t) const override { return true; }
  bool forward_in_place() const override { return true; }
  bool backward_in_place() const override { return true; }

 private:
  std::int64_t first_, count_;
};

// Each group of columns times its gate. The gates are copied to the master dtype, in which formulas take one
// number for a row.
class Gate final : public Operation {
 public:
  Gate() {
    forward_.assign(1, forward_.tensor(0) * forward_.tensor(2, Extent::rows));
    added_.assign(1, added_.tensor(1) + added_.tensor(0) * added_.tensor(2, Extent::rows));
    along_.sum_of(along_.tensor(0) * along_.tensor(1));
  }
  std::string_view name() const override { return "gate"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0].rank() == 2 && in[1].rank() == 2 && in[0].rows() == in[1].rows() &&
                    in[0].cols() % in[1].cols() == 0,
                name(), in);
    return {{in[0], false}};
  }
  void forward(const Run& r) const override {
    Pieces pieces(r);
    const Tensor gates = wide_gates(r, pieces);
    r.backend->evaluate(forward_, {}, {groups(r.in[0], gates), groups(r.out[0], gates), gates});
  }
  void backward(const Run& r) const override {
    Pieces pieces(r);
    const Tensor gates = wide_gates(r, pieces);
    if (r.din[0])
      r.backend->evaluate(r.accumulate[0] ? added_ : forward_, {},
                          {groups(r.dout[0], gates), groups(r.din[0], gates), gates});
    if (!r.din[1]) return;
    const Tensor sums = pieces.take(gates.dtype, gates.shape);
    r.backend->reduce(along_, {}, {groups(r.dout[0], gates), groups(r.in[0], gates)}, Extent::rows, sums);
    r.backend->copy(sums, r.din[1]);
  }
  bool backward_reads_input(std::size_t) const override { return true; }
  bool accumulates(std::size_t i) const override { return i == 0; }
  std::size_t workspace_bytes(const std::vector<Shape>& in, DType compute, DType, bool,
                              std::size_t) const override {
    return 2 * Pieces::room(static_cast<std::size_t>(in[1].numel()) * size_of(master_of(compute)));
  }

 private:
  static Tensor wide_gates(const Run& r, Pieces& pieces) {
    const Tensor gates = pieces.take(master_of(r.compute), Shape{r.in[1].numel()});
    r.backend->copy(r.in[1], gates);
    return gates;
  }
  static Tensor groups(const Tensor& x, const Tensor& gates) {
    return {x.data, x.dtype, Shape{gates.numel(), x.numel() / gates.numel()}};
  }
  Formula forward_, added_, along_;
};

class Previous final : public Operation {
 public:
  explicit Previous(std::int64_t context) : context_(context) {}
  std::string_view name() const override { return "previous"; }
  std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const override {
    require_fit(in[0].rank() == 2 && in[0].rows() % context_ == 0, name(), in);
    return {{in[0], false}};
  }
  void forward(const Run& r) const override { shift(r, r.in[0], 0, r.out[0], 1); }
  void backward(const Run& r) const override { shift(r, r.dout[0], 1, r.din[0], 0); }
  bool cheap() const override { return true; }

 private:
  // All rows but one of each sequence, from row `from` on of x to row `to` on of y; the one left over is
  // zero.
  void shift(const Run& r, const Tensor& x, std::int64_t from, const Tensor& y, std::int64_t to) const {
    for (std::int64_t row = 0; row < x.rows(); row += context_) {
      if (context_ > 1)
        r.backend->copy(x.slice_rows(row + from, context_ - 1), y.slice_rows(row + to, context_ - 1));
      r.backend->fill(y.slice_rows(to == 1 ? row : row + context_ - 1, 1), 0);
    }
  }
  std::int64_t context_;
};

}  // namespace

std::unique_ptr<Operation> make_mix(std::vector<MixFactor> factors) {
  return std::make_unique<Mix>(std::move(factors));
}
std::unique_ptr<Operation> make_columns(std::int64_t first, std::int64_t count) {
  return std::make_unique<Columns>(first, count);
}
std::unique_ptr<Operation> make_with_columns(std::int64_t first, std::int64_t count) {
  return std::make_unique<WithColumns>(first, count);
}
std::unique_ptr<Operation> make_gate() { return std::make_unique<Gate>(); }
std::unique_ptr<Operation> make_previous(std::int64_t context) { return std::make_unique<Previous>(context); }

}  // namespace spectrain
