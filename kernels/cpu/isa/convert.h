#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

// n elements; dtypes are numbered f64 = 0, f32 = 1, bf16 = 2 as in DType.
struct ConvertTable {
  void (*convert[3][3])(const void* from, void* to, std::int64_t n);  // [from][to], not in place
  // y = a x + b y;  b = 0 overwrites y whatever it held
  void (*axpby[3][3])(double a, const void* x, double b, void* y,
                      std::int64_t n);  // [dtype of x][dtype of y]
};
SPECTRAIN_ISA_TABLE(ConvertTable, convert_table)

}  // namespace spectrain
