#pragma once

#include "kernels/cuda/device.h"

// What the formulas of kernels/formulas.h take from a GPU. Only for .cu files.

namespace spectrain {

// For results in float32: correctly rounded division and root, exp to 2 ulp.
struct ExactMath {
  SPECTRAIN_HD static float exp(float x) { return expf(x); }
  SPECTRAIN_HD static float divide(float a, float b) { return a / b; }
  SPECTRAIN_HD static float square_root(float x) { return sqrtf(x); }
};

// For results in bf16, whose rounding is 2^15 times larger than these errors: the hardware's own
// approximations, a fourth of the instructions. At the bandwidth of an H100 an element-wise kernel on bf16
// has about 35 for an element.
struct FastMath {
  SPECTRAIN_HD static float exp(float x) {  // to (2 + 1.2 |x|) ulp
#ifdef __CUDA_ARCH__
    return __expf(x);
#else
    return expf(x);
#endif
  }
  SPECTRAIN_HD static float divide(float a, float b) {  // 0 for |b| > 2^126
#ifdef __CUDA_ARCH__
    return __fdividef(a, b);
#else
    return a / b;
#endif
  }
  SPECTRAIN_HD static float square_root(float x) {
#ifdef __CUDA_ARCH__
    float root;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(x));
    return root;
#else
    return sqrtf(x);
#endif
  }
};

template <class T>
struct MathFor {
  using type = ExactMath;
};
template <>
struct MathFor<bf16> {
  using type = FastMath;
};

}  // namespace spectrain
