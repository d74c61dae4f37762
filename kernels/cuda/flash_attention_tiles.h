#pragma once

#include "kernels/cuda/attention_visible.h"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/words.h"

// What the forward and backward kernels of flash attention are made of. All have one form: four warps own
// rows of one matrix for good (queries, or keys) and meet tile after tile of the other, which come into
// shared memory while the tile before is worked on. A product of two tiles is an accumulator in registers,
// and, rounded to bf16, at once a factor of the next product: scores never leave the registers. Only for .cu
// files.

namespace spectrain {

constexpr int kFlashThreads = 128, kFlashWarps = 4;
constexpr float kLog2E = 1.4426950408889634f;

__device__ inline float fast_exp2(float x) {
#ifdef SPECTRAIN_EMULATED_CUDA
  return exp2f_approximate(x);
#else
  float y = 0;
#ifdef __CUDA_ARCH__
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));  // error 2^-22; 0 of -infinity, NaN of NaN
#endif
  return y;
#endif
}

struct FlashArgs {
  std::int64_t items;  // pieces of work: row blocks of all heads of all sequences
  int blocks;          // row blocks of one head
  int together;        // heads whose keys and values fit in the L2 cache together
  int all_heads;       // of all sequences
  int context, heads, kv_heads;
  std::int64_t packed, width;
  int padded;  // the context, up to whole blocks: row length of lse2 and delta
  Visible visible;
  float scale, scale_log2;
  const bf16 *qkv, *out, *dout;
  bf16 *out_written, *dqkv;
  float* lse;
  float *lse2, *delta;  // [batch * heads, padded]: lse in powers of two, and rowsum(dout * out)
};

// Piece i of the work: its head, and its place in the order from the most work to the least. The heads go in
// groups that share the cache; within a group the long pieces come first, so that the last ones to end are
// short.
struct FlashItem {
  int head, rank;
};
__device__ inline FlashItem flash_item(std::int64_t i, int blocks, int together, int all_heads) {
  const std::int64_t per_group = static_cast<std::int64_t>(together) * blocks;
  const int group = static_cast<int>(i / per_group), first = group * together;
  const int inside = static_cast<int>(i - group * per_group);
  const int heads = all_heads - first < together ? all_heads - first : together;
  return {first + inside % heads, inside / heads};
}

// Where 8 elements (one `chunk` of 16 bytes) of a row lie in a tile: the chunks of 8 neighbouring rows are
// spread over all banks, whether they are read along rows (copies) or along columns (load_matrices).
template <int D>
__device__ inline int swizzled(int row, int chunk) {
  return row * D + ((chunk ^ (row & 7)) << 3);
}

__device__ inline int lane_of_warp() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warp_of_block() { return static_cast<int>(threadIdx.x) / kWarp; }

// The same number, of which the compiler does not know that it was there before: what is computed from it is
// computed where it is needed and not kept in registers through the loops in between.
__device__ inline int recomputed(int x) {
#ifdef __CUDA_ARCH__
  asm volatile("" : "+r"(x));
#endif
  return x;
}

// Starts copying rows [first, first + kRows) of a matrix with row length `stride`, D columns of it, to a
// tile; rows from `limit` on become zeros.
template <int D, int kRows>
__device__ inline void copy_tile(bf16* tile, const bf16* from, std::int64_t stride, int first, int limit) {
  constexpr int kChunks = D / 8, kAtOnce = kFlashThreads / kChunks;
  static_assert(kRows % kAtOnce == 0 && kAtOnce % 8 == 0);
  const int thread = recomputed(static_cast<int>(threadIdx.x));
  const int chunk = thread % kChunks, begin = thread / kChunks;
#pragma unroll
  for (int r = 0; r < kRows; r += kAtOnce) {
    const int row = begin + r;
    const bool there = first + row < limit;
    copy_async(tile + swizzled<D>(row, chunk), from + (there ? first + row : 0) * stride + chunk * 8, there);
  }
}

template <int A, int B>
__device__ inline void clear(float (&c)[A][B][4]) {
#pragma unroll
  for (int a = 0; a < A; ++a)
#pragma unroll
    for (int b = 0; b < B; ++b)
#pragma unroll
      for (int i = 0; i < 4; ++i) c[a][b][i] = 0;
}

// Columns [16k, 16k+16) of 16 M rows of a tile from `row` on, as left factors.
template <int D, int M>
__device__ inline void load_rows(std::uint32_t (&a)[M][4], const bf16* tile, int row, int k) {
  const int lane = lane_of_warp();
#pragma unroll
  for (int m = 0; m < M; ++m)
    load_matrices(a[m], tile + swizzled<D>(row + 16 * m + lane % 16, 2 * k + lane / 16));
}

// c[16M,N] += a[16M,16] . (rows [first, first + N) of a tile, columns [16k, 16k+16))^T
template <int D, int M, int N8>
__device__ inline void multiply_columns(float (&c)[M][N8][4], const std::uint32_t (&a)[M][4],
                                        const bf16* tile, int first, int k) {
  const int lane = lane_of_warp(), row = first + lane / 16 * 8 + lane % 8, chunk = 2 * k + lane / 8 % 2;
#pragma unroll
  for (int n = 0; n < N8; n += 2) {
    std::uint32_t b[4];
    load_matrices(b, tile + swizzled<D>(row + 8 * n, chunk));
#pragma unroll
    for (int m = 0; m < M; ++m) {
      mma_bf16(c[m][n], a[m], b[0], b[1]);
      mma_bf16(c[m][n + 1], a[m], b[2], b[3]);
    }
  }
}

// c[16M,N] = rows [row, row + 16M) of one tile . (rows [first, first + N) of another)^T
template <int D, int M, int N8>
__device__ inline void multiply_tiles(float (&c)[M][N8][4], const bf16* rows, int row, const bf16* tile,
                                      int first) {
  clear(c);
#pragma unroll 2  // all at once, the loads that run ahead take too many registers
  for (int k = 0; k < D / 16; ++k) {
    std::uint32_t a[M][4];
    load_rows<D>(a, rows, row, k);
    multiply_columns<D>(c, a, tile, first, k);
  }
}

// c[16M,D] += p[16M,N] . rows [first, first + N) of a tile; p is rounded to bf16.
template <int D, int M, int N8>
__device__ inline void multiply_rounded(float (&c)[M][D / 8][4], const float (&p)[M][N8][4], const bf16* tile,
                                        int first) {
  const int lane = lane_of_warp();
#pragma unroll
  for (int j = 0; j < N8 / 2; ++j) {
    std::uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) {
      a[m][0] = pack_bf16(p[m][2 * j][0], p[m][2 * j][1]);
      a[m][1] = pack_bf16(p[m][2 * j][2], p[m][2 * j][3]);
      a[m][2] = pack_bf16(p[m][2 * j + 1][0], p[m][2 * j + 1][1]);
      a[m][3] = pack_bf16(p[m][2 * j + 1][2], p[m][2 * j + 1][3]);
    }
#pragma unroll
    for (int d = 0; d < D / 16; ++d) {
      std::uint32_t b[4];
      load_matrices_transposed(b, tile + swizzled<D>(first + 16 * j + lane % 16, 2 * d + lane / 16));
#pragma unroll
      for (int m = 0; m < M; ++m) {
        mma_bf16(c[m][2 * d], a[m], b[0], b[1]);
        mma_bf16(c[m][2 * d + 1], a[m], b[2], b[3]);
      }
    }
  }
}

// Writes this warp's rows, times factor[m][upper or lower half], as bf16 to rows [first + row, ...) of `to`,
// those below `limit`. They go through the warp's own rows of a tile, so that memory gets whole lines.
template <int D, int M>
__device__ inline void write_rows(const float (&c)[M][D / 8][4], const float (&factor)[M][2], bf16* tile,
                                  int row, bf16* to, std::int64_t stride, int first, int limit) {
  const int lane = recomputed(lane_of_warp());
  __syncwarp();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<std::uint32_t*>(tile + swizzled<D>(row + 16 * m + 8 * half + lane / 4, n) +
                                          lane % 4 * 2) =
            pack_bf16(c[m][n][2 * half] * factor[m][half], c[m][n][2 * half + 1] * factor[m][half]);
  __syncwarp();
  constexpr int kChunks = D / 8, kAtOnce = kWarp / kChunks;
  const int chunk = lane % kChunks;
#pragma unroll
  for (int r = 0; r < 16 * M; r += kAtOnce) {
    const int at = row + r + lane / kChunks;
    if (first + at < limit)
      store_words(reinterpret_cast<Words<bf16, 8>*>(to + (first + at) * stride + chunk * 8),
                  load_words<8>(tile + swizzled<D>(at, chunk)));
  }
}

}  // namespace spectrain
