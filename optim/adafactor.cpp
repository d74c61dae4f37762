#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "optim/check_option.h"
#include "optim/finish.h"
#include "optim/registry.h"

namespace spectrain {

// Adafactor (Shazeer, Stern 2018, 1804.04235), without momentum. For a matrix G [m,n], t from 1, b = 1 -
// t^-p:
//
//   R = b R + (1 - b) (mean over columns of G^2 + e1)        [m]
//   C = b C + (1 - b) (mean over rows of G^2 + e1)           [n]
//   V = R C^T / mean(R);  of a vector: V = b V + (1 - b) (G^2 + e1)
//   U = G / sqrt(V);   U /= max(1, RMS(U) / d)
//   W = (1 - lr decay) W - max(e2, RMS(W)) rho U,   rho = min(lr, 1/sqrt(t))
//
// scale_by_weight false leaves max(e2, RMS(W)) out, relative_step false makes rho = lr. With both true it is
// torch.optim.Adafactor. Defaults: lr 1e-2, p 0.8, e1 1e-30, e2 1e-3, d 1, decay 0. State: m + n numbers per
// matrix (rows, columns), 1 per parameter of a vector (square). Cost: about 15 FLOPs per parameter in five
// passes over memory.
struct AdafactorOptions {
  double lr = 1e-2, weight_decay = 0, power = 0.8, eps1 = 1e-30, eps2 = 1e-3, clip = 1;
  bool scale_by_weight = true, relative_step = true;
  bool operator==(const AdafactorOptions&) const = default;
};

const RuleInfo& info_of(const AdafactorOptions&) {
  static const RuleInfo info{
      "adafactor", "V = row means x column means of g^2;  w -= max(e2, RMS(w)) rho clip(g / sqrt(V))",
      "Shazeer and Stern 2018 (1804.04235)"};
  return info;
}

void describe_options(OptionVisitor& v, AdafactorOptions& o) {
  v.field("lr", &o.lr, at_least(0), "learning rate; the largest relative step");
  v.field("weight_decay", &o.weight_decay, at_least(0), "decoupled: w -= lr weight_decay w");
  v.field("power", &o.power, within(0, 1), "the second moment's decay at step t is 1 - t^-power");
  v.field("eps", Tuple{{&o.eps1, &o.eps2}}, at_least(0), "added to squares; least RMS of the weights");
  v.field("clip", &o.clip, above_only(0), "largest RMS of an update before the learning rate");
  v.field("scale_by_weight", &o.scale_by_weight, {}, "steps are relative to the weights' RMS");
  v.field("relative_step", &o.relative_step, {}, "the learning rate is at most 1/sqrt(t)");
}

namespace {

constexpr double kLeastSquare = 1e-37;  // where squares and their products have underflown, g is 0 too

std::size_t aligned(std::int64_t numbers, DType master) {
  return (static_cast<std::size_t>(numbers) * size_of(master) + 63) / 64 * 64;
}

bool is_factored(const Shape& s) { return s.rank() == 2 && s[0] > 1 && s[1] > 1; }

struct Sizes {
  std::int64_t elements = 1, rows = 1, cols = 1;
  explicit Sizes(std::span<const Shape> parts) {
    for (const Shape& s : parts) {
      elements = std::max(elements, s.numel());
      rows = std::max(rows, s.rows());
      cols = std::max(cols, s.cols());
    }
  }
  std::size_t bytes(DType master) const {
    return aligned(elements, master) + aligned(rows, master) + aligned(cols, master) + 3 * aligned(1, master);
  }
};

class Adafactor final : public UpdateRule {
 public:
  Adafactor(const AdafactorOptions& options, const FinishOptions& finish)
      : options_(options), finish_(finish, options.lr, options.weight_decay) {
    check_options("adafactor", options);
    check(finish, "adafactor", options.weight_decay);
    check_storage_is_f32(finish, "adafactor");
    write_formulas();
  }

  std::string_view name() const override { return "adafactor"; }
  std::string settings() const override {
    return fmt::format("power {}, eps {} {}, clip {}{}{}{}", options_.power, options_.eps1, options_.eps2,
                       options_.clip, options_.scale_by_weight ? ", scaled by the weights" : "",
                       options_.relative_step ? ", relative step" : "", finish_.settings());
  }
  double lr() const override { return options_.lr; }
  double weight_decay() const override { return options_.weight_decay; }
  bool wants_matrices() const override { return true; }  // row and column means are of whole ones
  std::string objection(const Shape&) const override { return {}; }
  std::vector<StateSlot> state(const Shape& part) const override {
    std::vector<StateSlot> slots;
    if (is_factored(part))
      slots = {{"rows", Shape{part[0]}}, {"columns", Shape{part[1]}}};
    else
      slots = {{"square", part}};
    for (const StateSlot& s : finish_.state(part)) slots.push_back(s);
    return slots;
  }
  double flops(const Shape& part) const override {
    return 12.0 * static_cast<double>(part.numel()) + finish_.flops(part);
  }
  std::size_t workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const override {
    return Sizes(parts).bytes(backend.master()) + finish_.workspace_bytes(parts, backend);
  }
  void prepare(Backend& backend, std::span<const Shape> parts) override {
    backend_ = &backend;
    sizes_ = Sizes(parts);
    memory_ = backend.allocate(sizes_.bytes(backend.master()), "adafactor's means");
    finish_.prepare(backend, parts);
  }
  void update(const StepContext& context, std::span<const Part> parts) override {
    for (const Part& p : parts) update(context, p);
  }
  void restart() override { finish_.restart(); }

 private:
  void write_formulas();
  void update(const StepContext& context, const Part& part);

  AdafactorOptions options_;
  Finish finish_;
  Backend* backend_ = nullptr;
  Sizes sizes_{{}};
  std::unique_ptr<Buffer> memory_;
  // The squares of the scaled gradient; the means of them; W's squares; of U's squares, and D, for matrices
  // and for vectors.
  Formula squares_, mean_, square_, sum_, matrix_length_, vector_length_, matrix_, vector_;
};

// numbers of the last four: gradient scale, 1 / rows (of the mean of R), clip, eps2, 1 / numel, rho, scaled
struct LastTerms {
  Term g, v;
};
LastTerms last_terms(Formula& f, bool factored) {
  const Term g = f.number(0) * f.tensor(0);
  if (!factored) return {g, f.tensor(1)};
  const Term mean = f.number(1) * f.tensor(3, Extent::one);
  return {g, f.tensor(1, Extent::rows) / mean * f.tensor(2, Extent::columns)};
}

void Adafactor::write_formulas() {
  squares_.sum_of(square(squares_.number(0) * squares_.tensor(0)));
  // of sums over `1 / number(3)` elements
  mean_.assign(0, mean_.number(0) * mean_.tensor(0) +
                      mean_.number(1) * (mean_.number(3) * mean_.tensor(1) + mean_.number(2)));
  square_.assign(0,
                 square_.number(0) * square_.tensor(0) +
                     square_.number(1) * (square(square_.number(3) * square_.tensor(1)) + square_.number(2)));
  sum_.sum_of(sum_.tensor(0));
  for (const bool factored : {true, false}) {
    Formula& length = factored ? matrix_length_ : vector_length_;
    const LastTerms l = last_terms(length, factored);
    length.sum_of(square(l.g) / max(l.v, kLeastSquare));

    Formula& f = factored ? matrix_ : vector_;
    const LastTerms t = last_terms(f, factored);
    const Term clip = f.number(2), eps2 = f.number(3), share = f.number(4), rho = f.number(5),
               scaled = f.number(6);
    const Term uu = f.tensor(4, Extent::one), ww = f.tensor(5, Extent::one);
    const Term step =
        choose(scaled, max(eps2, sqrt(share * ww)), f.constant(1)) * rho / max(sqrt(share * uu) / clip, 1);
    f.assign(6, step * t.g / sqrt(max(t.v, kLeastSquare)));
  }
}

void Adafactor::update(const StepContext& context, const Part& part) {
  const DType master = backend_->master();
  const bool factored = is_factored(part.weight.shape);
  const double t = static_cast<double>(context.step + 1), fresh = std::pow(t, -options_.power),
               scale = context.gradient_scale, lr = finish_.rate(context);
  std::size_t offset = 0;
  const auto take = [&](const Shape& shape, std::int64_t reserved) {
    const Tensor view = memory_->view(master, shape, offset);
    offset += aligned(reserved, master);
    return view;
  };
  const Tensor direction = take(part.weight.shape, sizes_.elements);
  const Tensor row_sums = take({part.weight.rows()}, sizes_.rows),
               column_sums = take({part.weight.cols()}, sizes_.cols);
  const Tensor total = take({1}, 1), uu = take({1}, 1), ww = take({1}, 1);

  Backend& b = *backend_;
  if (factored) {
    b.reduce(squares_, {scale}, {part.gradient}, Extent::rows, row_sums);
    b.reduce(squares_, {scale}, {part.gradient}, Extent::columns, column_sums);
    const double rows = static_cast<double>(part.weight.rows()),
                 cols = static_cast<double>(part.weight.cols());
    b.evaluate(mean_, {1 - fresh, fresh, options_.eps1, 1 / cols}, {part.state[0], row_sums});
    b.evaluate(mean_, {1 - fresh, fresh, options_.eps1, 1 / rows}, {part.state[1], column_sums});
    b.reduce(sum_, {}, {part.state[0]}, Extent::one, total);
  } else {
    b.evaluate(square_, {1 - fresh, fresh, options_.eps1, scale}, {part.state[0], part.gradient});
  }
  const Tensor& first = part.state[0];
  const Tensor& second = factored ? part.state[1] : total;
  const double numbers[] = {scale,
                            1 / static_cast<double>(part.weight.rows()),
                            options_.clip,
                            options_.eps2,
                            1 / static_cast<double>(part.weight.numel()),
                            lr > 0 && options_.relative_step ? std::min(1.0, 1 / (lr * std::sqrt(t))) : 1.0,
                            options_.scale_by_weight ? 1.0 : 0.0};
  const Tensor tensors[] = {part.gradient, first, second, total, uu, ww, direction};
  b.reduce(factored ? matrix_length_ : vector_length_, std::span(numbers, factored ? 2 : 1),
           std::span(tensors, factored ? 4 : 2), Extent::one, uu);
  b.reduce(squares_, {1}, {part.weight}, Extent::one, ww);
  b.evaluate(factored ? matrix_ : vector_, numbers, tensors);
  finish_.apply(context, part, factored ? 2 : 1, direction, 1);
}

}  // namespace

std::unique_ptr<UpdateRule> make_rule(const AdafactorOptions& o, const FinishOptions& finish) {
  return std::make_unique<Adafactor>(o, finish);
}

RuleOptions adafactor() { return AdafactorOptions{}; }

}  // namespace spectrain
