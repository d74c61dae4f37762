#pragma once

#include <cstddef>
#include <span>

#include "kernels/collectives.h"

namespace spectrain {

// to[i] = ((rows[0][i] + rows[1][i]) + rows[2][i]) + ..., or the largest of them, for i in [0, count): in the
// dtype, but bf16 sums in float32, rounded once. A NaN among them is the result of either. `to` may be one of
// the rows. Throws std::logic_error for the largest of bf16.
void combine_in_order(std::span<const std::byte* const> rows, std::byte* to, std::size_t count, DType dtype,
                      Reduce op);

}  // namespace spectrain
