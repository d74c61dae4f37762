#include <fmt/format.h>

#include "kernels/cpu/checks.h"
#include "kernels/formula_program.h"

namespace spectrain {
namespace {

using Op = Formula::Op;

class FormulaCheck {
 public:
  FormulaCheck(const Formula& f, std::span<const Tensor> tensors, std::string_view kernel, bool half)
      : f_(f), tensors_(tensors), kernel_(kernel), half_(half) {}

  void counts(std::span<const double> numbers) const {
    require(numbers.size() == static_cast<std::size_t>(f_.numbers()), kernel_, [&] {
      return fmt::format("the formula names {} numbers, it got {}", f_.numbers(), numbers.size());
    });
    require(tensors_.size() == static_cast<std::size_t>(f_.tensors()), kernel_, [&] {
      return fmt::format("the formula names {} tensors, it got {}", f_.tensors(), tensors_.size());
    });
  }

  // R and C, from the first tensor that has its own elements.
  FormulaExtent extent(bool with_assignments, bool rows_matter) {
    for (const Formula::Node& n : f_.nodes())
      if (n.op == Op::tensor && n.extent == Extent::elements) take(n.index);
    if (with_assignments)
      for (const Formula::Assignment& a : f_.assignments()) take(a.tensor);
    require(first_ >= 0, kernel_, "the formula has no tensor with its own elements (Extent::elements)");
    const Tensor& first = tensor(first_);
    for (std::int32_t i = 0; i < f_.tensors(); ++i) {
      if (!is_elements_[static_cast<std::size_t>(i)]) continue;
      const Tensor& t = tensor(i);
      require(t.numel() == first.numel() && (!rows_matter || t.cols() == first.cols()), kernel_, [&] {
        return fmt::format("tensor {} is {}, tensor {} is {}", first_, first.shape.str(), i, t.shape.str());
      });
    }
    return {first.rows(), first.cols()};
  }

  void vectors(const FormulaExtent& e) const {
    for (const Formula::Node& n : f_.nodes()) {
      if (n.op != Op::tensor || n.extent == Extent::elements) continue;
      const std::int64_t size = n.extent == Extent::rows ? e.rows : n.extent == Extent::columns ? e.cols : 1;
      const Tensor& t = tensor(n.index);
      require(t.dtype == DType::f32 && t.numel() == size && (t || size == 0), kernel_, [&] {
        return fmt::format("tensor {} must be {} elements of f32{}, it is {} {}{}", n.index, size,
                           n.extent == Extent::rows      ? ", one for each row"
                           : n.extent == Extent::columns ? ", one for each column"
                                                         : "",
                           name_of(t.dtype), t.shape.str(), t ? "" : " (empty)");
      });
    }
  }

  // What is written is the same memory as another tensor, or apart from it.
  void apart(const Tensor& written, std::string_view name, std::int32_t itself, bool in_place) const {
    const auto begin = [](const Tensor& t) { return reinterpret_cast<std::uintptr_t>(t.data); };
    for (std::int32_t i = 0; i < f_.tensors(); ++i) {
      const Tensor& t = tensor(i);
      if (i == itself || t.bytes() == 0 || written.bytes() == 0) continue;
      const bool meet = begin(t) < begin(written) + written.bytes() && begin(written) < begin(t) + t.bytes();
      const bool same = begin(t) == begin(written) && t.bytes() == written.bytes();
      require(!meet || (in_place && same), kernel_, [&] {
        return fmt::format("{} overlaps tensor {}{}", name, i, in_place ? " in part" : ", which it reads");
      });
    }
  }
  void assigned_apart() const {
    for (const Formula::Assignment& a : f_.assignments())
      apart(tensor(a.tensor), "an output", a.tensor, true);
  }

 private:
  const Tensor& tensor(std::int32_t i) const { return tensors_[static_cast<std::size_t>(i)]; }
  void take(std::int32_t i) {
    if (first_ < 0) first_ = i;
    is_elements_[static_cast<std::size_t>(i)] = true;
    const Tensor& t = tensor(i);
    const bool fits = t.dtype == DType::f32 || t.dtype == DType::bf16 || (half_ && t.dtype == DType::f16);
    require(fits, kernel_, [&] {
      return fmt::format("tensor {} {} is {}, formulas take {}", i, t.shape.str(), name_of(t.dtype),
                         half_ ? "f32, bf16 and f16" : "f32 and bf16");
    });
    require(t || t.numel() == 0, kernel_, [&] { return fmt::format("tensor {} has no memory", i); });
  }

  const Formula& f_;
  std::span<const Tensor> tensors_;
  std::string_view kernel_;
  bool half_;
  std::int32_t first_ = -1;
  bool is_elements_[Formula::kMostTensors] = {};
};

bool has_rows_or_columns(const Formula& f) {
  for (const Formula::Node& n : f.nodes())
    if (n.op == Op::tensor && (n.extent == Extent::rows || n.extent == Extent::columns)) return true;
  return false;
}

}  // namespace

FormulaExtent check_evaluate(const Formula& formula, std::span<const double> numbers,
                             std::span<const Tensor> tensors, bool half) {
  FormulaCheck check(formula, tensors, "evaluate", half);
  check.counts(numbers);
  const FormulaExtent e = check.extent(true, has_rows_or_columns(formula));
  check.vectors(e);
  check.assigned_apart();
  return e;
}

FormulaExtent check_reduce(const Formula& formula, std::span<const double> numbers,
                           std::span<const Tensor> tensors, Extent result, const Tensor& out, bool half) {
  FormulaCheck check(formula, tensors, "reduce", half);
  require(result != Extent::elements, "reduce", "sums are over rows, columns or all (Extent::one)");
  check.counts(numbers);
  const FormulaExtent e = check.extent(false, result != Extent::one || has_rows_or_columns(formula));
  check.vectors(e);
  const std::int64_t size = result == Extent::rows ? e.rows : result == Extent::columns ? e.cols : 1;
  require_vector(out, DType::f32, size, size == 0, "reduce", "out");
  check.apart(out, "out", -1, false);
  return e;
}

}  // namespace spectrain
