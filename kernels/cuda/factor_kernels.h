#pragma once

#include "kernels/cuda/cuda_backend.h"

// What surrounds a library's factorisations, for batches of `count` matrices in device memory that lie one
// after the other, by rows. All in the backend's stream, always the same bits.

namespace spectrain {

// bad[i] = 1 and all of matrix i becomes 0 where one of its `elements` is NaN or infinity, else bad[i] = 0:
// no iteration may meet NaN, it might never end, and the host need not wait to know.
void zero_unless_finite(CudaBackend& backend, std::int64_t count, std::int64_t elements, float* a,
                        std::int32_t* bad);
// x [n,n] = x^T, in place.
void transpose_squares(CudaBackend& backend, std::int64_t count, std::int64_t n, float* x);
// signs [count,cols]: -1 where of column j of x [rows,cols] the element of largest magnitude, the first of
// equals, is negative, else 1.
void column_signs(CudaBackend& backend, std::int64_t count, std::int64_t rows, std::int64_t cols,
                  const float* x, float* signs);
// signs[i] = -1 where x[i step] < 0, else 1, for i in [0,n).
void signs_of(CudaBackend& backend, std::int64_t n, std::int64_t step, const float* x, float* signs);
// Column j, or row i, of x [rows,cols] times signs[j], or signs[i]; signs [count,cols] or [count,rows].
void turn_columns(CudaBackend& backend, std::int64_t count, std::int64_t rows, std::int64_t cols,
                  const float* signs, float* x);
void turn_rows(CudaBackend& backend, std::int64_t count, std::int64_t rows, std::int64_t cols,
               const float* signs, float* x);

}  // namespace spectrain
