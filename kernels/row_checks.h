#pragma once

#include "kernels/backend.h"

// What the row kernels (RowKernels in backend.h) of all backends require; they throw std::logic_error.

namespace spectrain {

// count <= R, indices are i32.
void require_top_rows(const Tensor& scores, const Tensor& indices);
// some [count,C] beside all [R,C], count indices.
void require_rows(const Tensor& all, const Tensor& indices, const Tensor& some, const char* kernel);
// The columns are there in both, which have as many rows and one dtype; x may be empty.
void require_columns(const Tensor& x, std::int64_t x_first, const Tensor& y, std::int64_t y_first,
                     std::int64_t count);
// Sizes of at least one, patches that lie over the padded image, x [pixels, channels], rows [places, patch].
void require_patches(const Patches& p, const Tensor& x, const Tensor& rows, const char* kernel);
// The same for pools: no padding, no overlap, x [pixels, channels], y [places, channels].
void require_pool(const Patches& p, const Tensor& x, const Tensor& y, const char* kernel);
// Each index within [0, rows): where the host can read them.
void require_indices(const Tensor& indices, std::int64_t rows, const char* kernel);

}  // namespace spectrain
