#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/formula.h"
#include "kernels/formula_code.h"
#include "kernels/tensor.h"

// A formula as a backend carries it out: a straight list of steps over registers. A register is a block of
// floats in the processor's first cache, or 16 bytes of a GPU thread's shared memory, so there are few: each
// is taken again when its value is no longer needed, and steps are ordered so that values are needed soon.
//
//   dropped   what no assignment (or, for reduce, not the sum) depends on
//   merged    equal operations on equal operands
//   fused     a product with the sum that alone takes it (multiply_add and its kin)
//   scalars   what consists of numbers, constants and, on the processor, tensors with Extent::one: computed
//             once for each call in double, rounded to float, taken by steps without a register
//
// Stores come last, so a step never sees what the same call wrote.

namespace spectrain {

class FormulaProgram {
 public:
  // Throws std::logic_error when nothing is assigned (or summed), or something is assigned twice.
  FormulaProgram(const Formula& formula, Formula::Use use);

  std::span<const FormulaStep> steps() const { return steps_; }
  int registers() const { return registers_; }
  int scalars() const { return static_cast<int>(scalars_.size()); }
  // Of a program for reduce: the register with what is summed, after the last step. On a device it is what
  // the last step made, whether or not a register holds it.
  int result() const { return result_; }
  // Whether a tensor lies as rows or columns, so that it matters where a row ends.
  bool has_rows_or_columns() const { return has_rows_or_columns_; }

  // Writes scalars() floats. Tensors with Extent::one are read here where the program is not for a device.
  void compute_scalars(std::span<const double> numbers, std::span<const Tensor> tensors, float* out) const;

  // Whether this was made of the formula as it is now: formulas only grow, but for what is summed.
  bool current(const Formula& formula) const;

 private:
  friend class FormulaCompiler;
  struct Scalar {
    Formula::Op op;
    std::int32_t index;  // of a number or tensor
    std::int32_t in[3];  // operations: scalars before this one
    double value;        // of a constant
  };
  std::vector<FormulaStep> steps_;
  std::vector<Scalar> scalars_;
  int registers_ = 0, result_ = -1;
  bool has_rows_or_columns_ = false;
  std::size_t nodes_ = 0, assignments_ = 0;
  std::int32_t summed_ = -1;
};

// What a caller handed to evaluate() or reduce(), checked against the formula; returns R and C. Each mistake
// is a std::logic_error that names it: numbers or tensors too few or too many, a tensor without memory, of
// another size or of a dtype that does not fit, tensors that overlap in part. Tensors with Extent::elements
// have the same rows and columns; where only their number matters, the same number of elements. half: f16 is
// taken too.
struct FormulaExtent {
  std::int64_t rows = 0, cols = 0;
};
FormulaExtent check_evaluate(const Formula& formula, std::span<const double> numbers,
                             std::span<const Tensor> tensors, bool half);
FormulaExtent check_reduce(const Formula& formula, std::span<const double> numbers,
                           std::span<const Tensor> tensors, Extent result, const Tensor& out, bool half);

}  // namespace spectrain
