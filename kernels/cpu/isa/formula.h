#pragma once

#include "kernels/cpu/isa/isa.h"
#include "kernels/formula_code.h"

// The interpreter of formula programs (kernels/formula_program.h): every step runs over a block of some
// hundred elements before the next, so that what a step costs beside its arithmetic is shared by all of them,
// and what registers hold stays in the first cache.

namespace spectrain {

struct FormulaTensor {
  void* data;
  FormulaDType dtype;
};

inline constexpr std::uint8_t kNoTensor = 255;

// All that a call needs; one for all threads.
struct FormulaCall {
  const FormulaStep* steps;
  int count;
  // Of each step: the tensor into which it may write at once what it makes, because nothing that lies there
  // is needed any more; kNoTensor for the others. There is no store for it among the steps then.
  std::uint8_t into[kMostFormulaSteps];
  int registers;
  int result;            // the register that sums are of
  const float* scalars;  // FormulaProgram::compute_scalars
  FormulaTensor tensors[kMostFormulaTensors];
  std::int64_t cols;
  bool has_rows_or_columns;
};

struct FormulaTable {
  // Elements [begin, end), counted row by row.
  void (*evaluate)(const FormulaCall& call, std::int64_t begin, std::int64_t end);
  // The sum over them, in double: element i belongs to lane (i - begin) % 16, the lanes are added in pairs.
  double (*sum)(const FormulaCall& call, std::int64_t begin, std::int64_t end);
  // sums[r - first] = the sum over row r in [first, last), added in such a way, with 8 lanes for short rows.
  void (*sum_rows)(const FormulaCall& call, std::int64_t first, std::int64_t last, float* sums);
  // sums[c - first_col] = the sum over rows [first_row, last_row) of column c in [first_col, last_col), in
  // this order.
  void (*sum_columns)(const FormulaCall& call, std::int64_t first_row, std::int64_t last_row,
                      std::int64_t first_col, std::int64_t last_col, double* sums);
};
SPECTRAIN_ISA_TABLE(FormulaTable, formula_table)

}  // namespace spectrain
