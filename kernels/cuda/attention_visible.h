#pragma once

#include "kernels/cuda/device.h"
#include "kernels/tensor.h"

// The first key that each query sees, as kernels read it. Only for .cu files.

namespace spectrain {

struct Visible {
  int context;
  const std::int32_t* first;  // [batch, context], or null: 0 for all

  // The first key that the query at position t of sequence b sees; its last one is t. Beyond the sequence's
  // end: t itself, so that it never decreases.
  __device__ int first_key(std::int64_t b, int t) const {
    if (t >= context) return t;
    return first ? first[b * context + t] : 0;
  }
};

// The tile of kRows queries after the last one that has a query which sees a key up to `last_key`; at least
// one from first_tile on.
template <int kRows>
__device__ inline int end_of_queries(const Visible& visible, std::int64_t b, int first_tile, int last_key) {
  int low = first_tile + 1, high = (visible.context + kRows - 1) / kRows;
  while (low < high) {  // first_key() never decreases
    const int middle = (low + high) / 2;
    if (visible.first_key(b, middle * kRows) <= last_key)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

inline Visible visible(const Tensor& first_key, std::int64_t context) {
  return {static_cast<int>(context), first_key ? first_key.as<std::int32_t>() : nullptr};
}

}  // namespace spectrain
