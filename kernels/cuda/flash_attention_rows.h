#pragma once

#include "kernels/cuda/flash_attention_tiles.h"

// The running softmax of the forward pass, for rows of scores as the tensor cores leave them (mma.h). Only
// for .cu files.

namespace spectrain {

// A lane's share of the running state: rows g and g + 8 of each 16.
template <int D, int M>
struct FlashRows {
  float out[M][D / 8][4];
  float largest[M][2], sum[M][2];  // of scores, unscaled; of this lane's own columns
  int first_key[M][2];
};

// The scores of keys [first, ...) that row does not see become -infinity. `row` is this warp's first one.
template <int D, int M, int N8>
__device__ inline void hide(float (&s)[M][N8][4], const FlashRows<D, M>& r, int first, int row) {
  const int lane = lane_of_warp();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < N8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first + 8 * n + lane % 4 * 2 + i % 2, query = row + 16 * m + i / 2 * 8 + lane / 4;
        if (key > query || key < r.first_key[m][i / 2]) s[m][n][i] = -INFINITY;
      }
}

// Scores to weights in place, and the running state to the new maximum.
template <int D, int M, int N8>
__device__ inline void weigh(float (&s)[M][N8][4], FlashRows<D, M>& r, float scale_log2) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = r.largest[m][half];
#pragma unroll
      for (int n = 0; n < N8; ++n) largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      // The four lanes of a row.
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      // -infinity less -infinity is no number, but the first step of a row has its diagonal in it.
      const float correction = fast_exp2((r.largest[m][half] - largest) * scale_log2);
      r.largest[m][half] = largest;
      const float offset = largest * scale_log2;
      float sum = r.sum[m][half] * correction;
#pragma unroll
      for (int n = 0; n < N8; ++n)
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          s[m][n][i] = fast_exp2(fmaf(s[m][n][i], scale_log2, -offset));
          sum += s[m][n][i];
        }
      r.sum[m][half] = sum;
      // Soon no row finds a larger score any more.
      if (__any_sync(kWholeWarp, correction != 1)) {
#pragma unroll
        for (int d = 0; d < D / 8; ++d) {
          r.out[m][d][2 * half] *= correction;
          r.out[m][d][2 * half + 1] *= correction;
        }
      }
    }
}

// `row` is this warp's first one in the sequence b.
template <bool kMasked, int D, int M>
__device__ inline void begin_rows(FlashRows<D, M>& r, const Visible& visible, std::int64_t b, int row) {
  clear(r.out);
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      r.largest[m][half] = -INFINITY;
      r.sum[m][half] = 0;
      r.first_key[m][half] = kMasked ? visible.first_key(b, row + 16 * m + 8 * half + lane_of_warp() / 4) : 0;
    }
}

// Divides by the sums; out, and lse where it is wanted.
template <int D, int M>
__device__ inline void finish_rows(const FlashArgs& a, FlashRows<D, M>& r, bf16* tile, int row,
                                   int head_of_all, int first) {
  const std::int64_t b = head_of_all / a.heads, head = head_of_all % a.heads;
  float factor[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float sum = r.sum[m][half];
      sum += __shfl_xor_sync(kWholeWarp, sum, 1);
      sum += __shfl_xor_sync(kWholeWarp, sum, 2);
      factor[m][half] = 1 / sum;
      const int at = first + row + 16 * m + 8 * half + lane_of_warp() / 4;
      if (a.lse && lane_of_warp() % 4 == 0 && at < a.context)
        a.lse[std::int64_t{head_of_all} * a.context + at] = r.largest[m][half] * a.scale + logf(sum);
    }
  write_rows<D>(r.out, factor, tile, row, a.out_written + b * a.context * a.width + head * D, a.width, first,
                a.context);
}

}  // namespace spectrain
