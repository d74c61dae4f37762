#pragma once

#include "kernels/cuda/flash_attention_tiles.h"
#include "kernels/cuda/wgmma_registers.h"

// What the passes of flash attention with wgmma share. Only for .cu files.

namespace spectrain {

// Starts copying kRows rows, D columns of a matrix, to slabs of 64 columns (wgmma.h), by kThreads threads;
// rows from `limit` on become zeros.
template <int D, int kRows, int kThreads>
__device__ inline void copy_slabs(unsigned char* slabs, const bf16* from, std::int64_t stride, int first,
                                  int limit) {
  constexpr int kChunks = D / 8, kAtOnce = kThreads / kChunks;
  const int thread = recomputed(static_cast<int>(threadIdx.x));
  const int chunk = thread % kChunks, begin = thread / kChunks;
  unsigned char* slab = slabs + chunk / 8 * kRows * kSlabRowBytes;
#pragma unroll
  for (int r = 0; r < kRows; r += kAtOnce) {
    const int row = begin + r;
    const bool there = first + row < limit;
    if (kRows % kAtOnce == 0 || row < kRows)
      copy_async(slab + slab_offset(row, chunk % 8), from + (there ? first + row : 0) * stride + chunk * 8,
                 there);
  }
}

// The results of one product as left factors of the next.
template <int N16, int N8>
__device__ inline void round_factor(std::uint32_t (&factor)[N16][4], const float (&p)[N8][4]) {
  static_assert(N8 == 2 * N16);
#pragma unroll
  for (int j = 0; j < N16; ++j) {
    factor[j][0] = pack_bf16(p[2 * j][0], p[2 * j][1]);
    factor[j][1] = pack_bf16(p[2 * j][2], p[2 * j][3]);
    factor[j][2] = pack_bf16(p[2 * j + 1][0], p[2 * j + 1][1]);
    factor[j][3] = pack_bf16(p[2 * j + 1][2], p[2 * j + 1][3]);
  }
}

}  // namespace spectrain
