#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

// Index: 0 = f64, 1 = f32, 2 = bf16 (DType's order). Sums run over 16 fixed lanes, which are then added in
// order, so the result is the same for every instruction set.
struct ReductionTable {
  double (*sum[3])(const void* x, std::int64_t n);
  double (*sum_of_squares[3])(const void* x, std::int64_t n);
  bool (*all_finite[3])(const void* x, std::int64_t n);
};
SPECTRAIN_ISA_TABLE(ReductionTable, reduction_table)

}  // namespace spectrain
