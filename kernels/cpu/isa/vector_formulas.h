#pragma once

#include <cmath>

#include "kernels/cpu/isa/vector_math.h"
#include "kernels/formulas.h"

namespace spectrain::SPECTRAIN_ISA {

// What the formulas shared with the GPU take from here: an element-wise loop over one is vector code.
struct VectorMath {
  static float exp(float x) { return exp_fast(x); }
  static float divide(float a, float b) { return a / b; }
  static float square_root(float x) { return std::sqrt(x); }
};

}  // namespace spectrain::SPECTRAIN_ISA
