#pragma once

#include <cstdint>

#include "kernels/tensor.h"
#include "optim/option.h"

namespace spectrain {

enum class NewtonSchulzTable : std::uint8_t {
  keller,
  polar_express,
  you,
  exact,
  polar_express_105,
  polar_express_101,
  cans,
  cubic5,
  cubic,
  pade,
  deepseek_v4,
  aol,
};
// Of the same polynomials: iterating on the matrix, or on its Gram matrix, cheaper unless it is square
// (newton_schulz.h).
enum class NewtonSchulzForm : std::uint8_t { standard, gram };
struct NewtonSchulzOptions {
  NewtonSchulzTable coefficients = NewtonSchulzTable::polar_express;
  int steps = 0;                 // 0: the table's own count, mostly 5
  DType precision = DType::f32;  // of the iterations: f32, bf16, or f16 on CUDA; the norm is always f32
  NewtonSchulzForm form = NewtonSchulzForm::standard;
  bool operator==(const NewtonSchulzOptions&) const = default;
};

void describe_newton_schulz(OptionVisitor& v, NewtonSchulzOptions& o);  // the section "newton_schulz"

}  // namespace spectrain
