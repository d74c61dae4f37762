#pragma once

#include <cstdint>

#include "kernels/cpu/isa/isa.h"
#include "kernels/tensor.h"

// Who computes a matrix product: the kernels in isa/gemm.cpp, or oneDNN.

namespace spectrain {

enum class MatrixEngine : std::uint8_t { own, onednn };

struct MatrixMachine {
  Isa isa = Isa::baseline;   // the best instruction set the own kernels may use
  bool onednn = false;       // oneDNN is built in and allowed
  bool amx_bf16 = false;     // oneDNN multiplies bf16 in AMX tiles here
  bool onednn_bf16 = false;  // oneDNN multiplies bf16 at all here
};
MatrixMachine matrix_machine(bool use_onednn);

// The choice, with the measurements behind it.
MatrixEngine choose_engine(const MatrixMachine& machine, DType compute);

// For tests and benchmarks, before a backend is made: everything that can be computed by `engine` is,
// whatever was measured; forget_forced_engine() goes back to the choice above.
void force_engine(MatrixEngine engine);
void forget_forced_engine();

}  // namespace spectrain
