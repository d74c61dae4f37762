#pragma once

#include "kernels/tensor.h"

namespace spectrain {

// Rows [first, last) of y[C,R] = x[R,C]^T, on the calling thread, in host memory; x and y of any float
// dtypes. Throws std::logic_error when they are not.
void transpose_range(const Tensor& x, const Tensor& y, std::int64_t first, std::int64_t last);

}  // namespace spectrain
