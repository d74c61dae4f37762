#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/cuda_backend.h"

// Only for .cu files.

namespace spectrain {

// The row's token, or vocab when it is none: then it belongs to a table row that does not exist.
__device__ inline std::int32_t token_key(std::int32_t token, std::int32_t vocab) {
  return token >= 0 && token < vocab ? token : vocab;
}

// order[0..rows) = the numbers of the rows, sorted by token_key, rows of one token ascending: the same
// whatever the number of blocks. `space`: token_order_bytes(rows) of memory, aligned to 128.
// A radix sort of row numbers, 8 bits a pass; the tokens of a whole batch are a few hundred KB, so the time
// is that of three small kernels a pass (some 5 us), and nothing beside reading the gradients that follow.
std::size_t token_order_bytes(std::int64_t rows);
void order_by_token(CudaBackend& backend, const std::int32_t* tokens, std::int64_t rows, std::int32_t vocab,
                    void* space, std::int32_t* order);

}  // namespace spectrain
