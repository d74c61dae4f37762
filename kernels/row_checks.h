#pragma once

#include "kernels/tensor.h"

// What the row kernels (RowKernels in backend.h) of all backends require; they throw std::logic_error.

namespace spectrain {

// count <= R, indices are i32.
void require_top_rows(const Tensor& scores, const Tensor& indices);
// some [count,C] beside all [R,C], count indices.
void require_rows(const Tensor& all, const Tensor& indices, const Tensor& some, const char* kernel);
// Each index within [0, rows): where the host can read them.
void require_indices(const Tensor& indices, std::int64_t rows, const char* kernel);

}  // namespace spectrain
