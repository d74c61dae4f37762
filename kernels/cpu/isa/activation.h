#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

// First index: 0 = f32, 1 = bf16. Second: enum Activation's order.
struct ActivationTable {
  void (*forward[2][6])(const void* x, void* y, std::int64_t n);                        // y may be x
  void (*backward[2][6])(const void* dy, const void* saved, void* dx, std::int64_t n);  // dx may be dy
  void (*swiglu[2])(const void* x, void* y, std::int64_t rows, std::int64_t width);     // x [rows, 2 width]
  void (*swiglu_backward[2])(const void* dy, const void* x, void* dx, std::int64_t rows, std::int64_t width);
  void (*add[2])(const void* a, const void* b, void* y, std::int64_t n);   // y may be a or b
  void (*scale[2])(const void* x, float factor, void* y, std::int64_t n);  // y may be x
};
SPECTRAIN_ISA_TABLE(ActivationTable, activation_table)

}  // namespace spectrain
