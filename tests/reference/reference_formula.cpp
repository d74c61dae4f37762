#include <cmath>
#include <stdexcept>
#include <vector>

#include "tests/reference/reference_backend.h"

// Formulas node by node, element by element.

namespace spectrain {
namespace {

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
      throw std::logic_error("no operation");
  }
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

// The value of every node at one element.
class Values {
 public:
  Values(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors)
      : formula_(f), numbers_(numbers), tensors_(tensors), values_(f.nodes().size()) {}

  void compute(const Place& place) {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const Formula::Node& n = formula_.nodes()[i];
      if (n.op == Formula::Op::tensor)
        values_[i] = tensors_[static_cast<std::size_t>(n.index)].as<double>()[place.of(n.extent)];
      else if (n.op == Formula::Op::number)
        values_[i] = numbers_[static_cast<std::size_t>(n.index)];
      else if (n.op == Formula::Op::constant)
        values_[i] = n.value;
      else
        values_[i] = apply(n.op, at(n.a), at(n.b), at(n.c));
    }
  }
  double at(std::int32_t node) const { return node < 0 ? 0 : values_[static_cast<std::size_t>(node)]; }

 private:
  const Formula& formula_;
  std::span<const double> numbers_;
  std::span<const Tensor> tensors_;
  std::vector<double> values_;
};

Shape shape_of(const Formula& f, std::span<const Tensor> tensors) {
  for (const Formula::Node& n : f.nodes())
    if (n.op == Formula::Op::tensor && n.extent == Extent::elements)
      return tensors[static_cast<std::size_t>(n.index)].shape;
  return tensors[static_cast<std::size_t>(f.assignments().at(0).tensor)].shape;
}

}  // namespace

void ReferenceBackend::evaluate(const Formula& f, std::span<const double> numbers,
                                std::span<const Tensor> tensors) {
  const Shape shape = shape_of(f, tensors);
  Values values(f, numbers, tensors);
  for (std::int64_t r = 0; r < shape.rows(); ++r)
    for (std::int64_t c = 0; c < shape.cols(); ++c) {
      const Place place{r, c, shape.cols()};
      values.compute(place);
      for (const Formula::Assignment& a : f.assignments())
        tensors[static_cast<std::size_t>(a.tensor)].as<double>()[place.of(Extent::elements)] =
            values.at(a.node);
    }
}

void ReferenceBackend::reduce(const Formula& f, std::span<const double> numbers,
                              std::span<const Tensor> tensors, Extent result, const Tensor& out) {
  const Shape shape = shape_of(f, tensors);
  Values values(f, numbers, tensors);
  std::vector<double> sums(static_cast<std::size_t>(out.numel()));
  for (std::int64_t r = 0; r < shape.rows(); ++r)
    for (std::int64_t c = 0; c < shape.cols(); ++c) {
      const Place place{r, c, shape.cols()};
      values.compute(place);
      sums[static_cast<std::size_t>(place.of(result))] += values.at(f.result());
    }
  for (std::int64_t i = 0; i < out.numel(); ++i) out.as<double>()[i] = sums[static_cast<std::size_t>(i)];
}

}  // namespace spectrain
