#include "kernels/formula.h"

#include <cmath>

#include "kernels/backend.h"

namespace spectrain {

namespace {

double element(const Tensor& t, std::int64_t i) {
  switch (t.dtype) {
    case DType::f64:
      return t.as<double>()[i];
    case DType::f32:
      return t.as<float>()[i];
    case DType::bf16:
      return static_cast<double>(static_cast<float>(t.as<bf16>()[i]));
    default:
      throw std::logic_error("a formula over a dtype that it does not take");
  }
}

void store(const Tensor& t, std::int64_t i, double value) {
  if (t.dtype == DType::f64)
    t.as<double>()[i] = value;
  else if (t.dtype == DType::f32)
    t.as<float>()[i] = static_cast<float>(value);
  else
    t.as<bf16>()[i] = bf16(static_cast<float>(value));
}

struct Place {
  std::int64_t row, column, cols;
  std::int64_t of(Extent e) const {
    return e == Extent::elements  ? row * cols + column
           : e == Extent::rows    ? row
           : e == Extent::columns ? column
                                  : 0;
  }
};

double apply(Formula::Op op, double a, double b, double c) {
  using Op = Formula::Op;
  switch (op) {
    case Op::add:
      return a + b;
    case Op::subtract:
      return a - b;
    case Op::multiply:
      return a * b;
    case Op::divide:
      return a / b;
    case Op::least:
      return std::fmin(a, b);
    case Op::greatest:
      return std::fmax(a, b);
    case Op::above:
      return a > b ? 1 : 0;
    case Op::square_root:
      return std::sqrt(a);
    case Op::absolute:
      return std::fabs(a);
    case Op::sign:
      return a > 0 ? 1 : a < 0 ? -1 : a;
    case Op::choose:
      return a != 0 ? b : c;
    default:
      return 0;
  }
}

void compute(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors,
             const Place& at, std::vector<double>& values) {
  const auto& nodes = f.nodes();
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    const Formula::Node& n = nodes[i];
    const auto value = [&](std::int32_t k) { return k < 0 ? 0 : values[static_cast<std::size_t>(k)]; };
    if (n.op == Formula::Op::tensor)
      values[i] = element(tensors[static_cast<std::size_t>(n.index)], at.of(n.extent));
    else if (n.op == Formula::Op::number)
      values[i] = numbers[static_cast<std::size_t>(n.index)];
    else if (n.op == Formula::Op::constant)
      values[i] = n.value;
    else
      values[i] = apply(n.op, value(n.a), value(n.b), value(n.c));
  }
}

Shape extent_of(const Formula& f, std::span<const Tensor> tensors) {
  for (const Formula::Node& n : f.nodes())
    if (n.op == Formula::Op::tensor && n.extent == Extent::elements)
      return tensors[static_cast<std::size_t>(n.index)].shape;
  return tensors[static_cast<std::size_t>(f.assignments().at(0).tensor)].shape;
}

}  // namespace

void FormulaKernels::evaluate(const Formula& f, std::span<const double> numbers,
                              std::span<const Tensor> tensors) {
  const Shape shape = extent_of(f, tensors);
  std::vector<double> values(f.nodes().size());
  for (std::int64_t r = 0; r < shape.rows(); ++r)
    for (std::int64_t c = 0; c < shape.cols(); ++c) {
      compute(f, numbers, tensors, {r, c, shape.cols()}, values);
      for (const Formula::Assignment& a : f.assignments())
        store(tensors[static_cast<std::size_t>(a.tensor)], r * shape.cols() + c,
              values[static_cast<std::size_t>(a.node)]);
    }
}

void FormulaKernels::reduce(const Formula& f, std::span<const double> numbers,
                            std::span<const Tensor> tensors, Extent result, const Tensor& out) {
  const Shape shape = extent_of(f, tensors);
  std::vector<double> values(f.nodes().size()), sums(static_cast<std::size_t>(out.numel()));
  for (std::int64_t r = 0; r < shape.rows(); ++r)
    for (std::int64_t c = 0; c < shape.cols(); ++c) {
      const Place at{r, c, shape.cols()};
      compute(f, numbers, tensors, at, values);
      sums[static_cast<std::size_t>(at.of(result))] += values[static_cast<std::size_t>(f.result())];
    }
  for (std::int64_t i = 0; i < out.numel(); ++i) store(out, i, sums[static_cast<std::size_t>(i)]);
}

}  // namespace spectrain
