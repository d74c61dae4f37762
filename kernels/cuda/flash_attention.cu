#include <algorithm>

#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/launch.h"

// The forward pass (Dao 2023, FlashAttention-2): a block of 128 queries, 32 to each warp, meets the keys and
// values 64 at a time, from the diagonal backwards, with a running maximum and sum for each row.
//
// Floor: operations. 4 D for each pair of a query and a key it sees, on the tensor cores; mma.sync reaches
// about 60 % of what wgmma does on an H100 (on an A100 it is the only way). A warp of 32 rows uses each
// fragment of keys and values twice: with 16 rows shared memory (128 bytes a cycle) would be slower than the
// tensor cores. Keys and values of a group of heads are read from memory once and from the L2 cache by all
// blocks of queries.

namespace spectrain {
namespace {

constexpr int kRows = 128, kKeys = 64;  // of a block, of a tile
constexpr int M = kRows / kFlashWarps / 16;
// Keys of a tile that are worked on at once: with 128 columns of results there are no registers for more.
template <int D>
constexpr int kStep = D == 64 ? 64 : 32;
template <int D>
using Scores = float[M][kStep<D> / 8][4];

// A lane's share of the running state: rows g and g + 8 of each 16.
template <int D>
struct Running {
  float out[M][D / 8][4];
  float largest[M][2], sum[M][2];  // of scores, unscaled; of this lane's own columns
  int first_key[M][2];
};

// The scores of keys [first, ...) that row does not see become -infinity. `row` is this warp's first one.
template <int D>
__device__ inline void hide(Scores<D>& s, const Running<D>& r, int first, int row) {
  const int lane = lane_of_warp();
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < kStep<D> / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first + 8 * n + lane % 4 * 2 + i % 2, query = row + 16 * m + i / 2 * 8 + lane / 4;
        if (key > query || key < r.first_key[m][i / 2]) s[m][n][i] = -INFINITY;
      }
}

// Scores to weights in place, and the running state to the new maximum.
template <int D>
__device__ inline void weigh(Scores<D>& s, Running<D>& r, float scale_log2) {
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = r.largest[m][half];
#pragma unroll
      for (int n = 0; n < kStep<D> / 8; ++n)
        largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
      // The four lanes of a row.
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kWholeWarp, largest, 2));
      // -infinity less -infinity is no number, but the first step of a row has its diagonal in it.
      const float correction = fast_exp2((r.largest[m][half] - largest) * scale_log2);
      r.largest[m][half] = largest;
      const float offset = largest * scale_log2;
      float sum = r.sum[m][half] * correction;
#pragma unroll
      for (int n = 0; n < kStep<D> / 8; ++n)
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

// Keys [first, first + kStep) of the sequence, which are those from `at` on in the tiles.
template <int D, bool kMasked>
__device__ inline void forward_step(Running<D>& r, const bf16* queries, int row_in_tile, const bf16* keys,
                                    const bf16* values, int at, int first, int row, float scale_log2) {
  if (first > row + 16 * M - 1) return;  // all in the future of this warp's rows
  Scores<D> s;
  multiply_tiles<D>(s, queries, row_in_tile, keys, at);
  if (kMasked || first + kStep<D> - 1 > row) hide<D>(s, r, first, row);
  weigh<D>(s, r, scale_log2);
  multiply_rounded<D>(r.out, s, values, at);
}

// Divides by the sums; out, and lse where it is wanted.
template <int D>
__device__ inline void finish(const FlashArgs& a, Running<D>& r, bf16* tile, int row, int head_of_all,
                              int first) {
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

template <int D, bool kMasked>
__global__ void __launch_bounds__(kFlashThreads, 2) flash_forward_kernel(const FlashArgs a) {
  auto* query_tile = static_cast<bf16*>(dynamic_shared());
  bf16* key_tiles = query_tile + kRows * D;  // keys, values; and both again
  const int row = warp_of_block() * 16 * M;  // of this warp, in the tile
  for (std::int64_t i = blockIdx.x; i < a.items; i += gridDim.x) {
    const FlashItem item = flash_item(i, a.blocks, a.together, a.all_heads);
    const std::int64_t b = item.head / a.heads;
    const int head = item.head % a.heads, first = (a.blocks - 1 - item.rank) * kRows;
    const bf16* q = a.qkv + b * a.context * a.packed + head * D;
    const bf16* k = a.qkv + b * a.context * a.packed + (a.heads + head / (a.heads / a.kv_heads)) * D;
    const bf16* v = k + a.kv_heads * D;
    const int end = first + kRows < a.context ? first + kRows : a.context;
    const int last_tile = (end - 1) / kKeys;
    const int first_tile = kMasked ? a.visible.first_key(b, first) / kKeys : 0;

    copy_tile<D, kRows>(query_tile, q, a.packed, first, a.context);
    copy_tile<D, kKeys>(key_tiles, k, a.packed, last_tile * kKeys, a.context);
    copy_tile<D, kKeys>(key_tiles + kKeys * D, v, a.packed, last_tile * kKeys, a.context);
    copies_commit();

    Running<D> r;
    clear(r.out);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        r.largest[m][half] = -INFINITY;
        r.sum[m][half] = 0;
        r.first_key[m][half] =
            kMasked ? a.visible.first_key(b, first + row + 16 * m + 8 * half + lane_of_warp() / 4) : 0;
      }
    for (int tile = last_tile; tile >= first_tile; --tile) {
      const int now = (last_tile - tile) % 2;
      copies_wait<0>();
      __syncthreads();  // the tile is there for all, and nobody reads the other one any more
      if (tile > first_tile) {
        bf16* next = key_tiles + (1 - now) * 2 * kKeys * D;
        copy_tile<D, kKeys>(next, k, a.packed, (tile - 1) * kKeys, a.context);
        copy_tile<D, kKeys>(next + kKeys * D, v, a.packed, (tile - 1) * kKeys, a.context);
        copies_commit();
      }
      const bf16* keys = key_tiles + now * 2 * kKeys * D;
#pragma unroll 1
      for (int at = kKeys - kStep<D>; at >= 0; at -= kStep<D>)
        forward_step<D, kMasked>(r, query_tile, row, keys, keys + kKeys * D, at, tile * kKeys + at,
                                 first + row, a.scale_log2);
    }
    finish<D>(a, r, query_tile, row, recomputed(item.head), recomputed(first));
    __syncthreads();  // the tiles are free for the next piece
  }
}

}  // namespace

bool flash_fits(const HeadLayout& layout, double scale, const Tensor& qkv) {
  return qkv.dtype == DType::bf16 && (layout.head_dim == 64 || layout.head_dim == 128) && scale > 0 &&
         reinterpret_cast<std::uintptr_t>(qkv.data) % 16 == 0 && layout.context < (1 << 30) &&
         layout.batch * layout.heads < (1 << 30);
}

FlashArgs flash_arguments(const HeadLayout& layout, double scale, const Tensor& qkv,
                          const AttentionMask& mask, int rows, std::int64_t heads) {
  FlashArgs a{};
  a.blocks = static_cast<int>((layout.context + rows - 1) / rows);
  a.all_heads = static_cast<int>(layout.batch * heads);
  a.items = std::int64_t{a.blocks} * a.all_heads;
  // Both matrices that are streamed, in a third of the L2 cache of an H100 (50 MB).
  constexpr std::int64_t kCached = 16 << 20;
  a.together = static_cast<int>(
      std::clamp<std::int64_t>(kCached / (4 * layout.context * layout.head_dim), 1, a.all_heads));
  a.context = static_cast<int>(layout.context);
  a.heads = static_cast<int>(layout.heads);
  a.kv_heads = static_cast<int>(layout.kv_heads);
  a.packed = layout.packed();
  a.width = layout.width();
  a.padded = (a.context + kRows - 1) / kRows * kRows;
  a.visible = visible(mask, layout.context);
  a.scale = static_cast<float>(scale);
  a.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  a.qkv = qkv.as<bf16>();
  return a;
}

bool flash_attention(CudaBackend& backend, const HeadLayout& layout, double scale, const Tensor& qkv,
                     const Tensor& out, const Tensor& lse, const AttentionMask& mask) {
  if (!flash_fits(layout, scale, qkv)) return false;
  FlashArgs a = flash_arguments(layout, scale, qkv, mask, kRows, layout.heads);
  if (a.items == 0) return true;
  a.out_written = out.as<bf16>();
  a.lse = lse ? lse.as<float>() : nullptr;
  with_flash_kernel(layout, a.visible, [&](auto D, auto masked) {
    constexpr std::size_t kShared = (kRows + 4 * kKeys) * D * sizeof(bf16);
    launch(backend.stream(), {backend.blocks_for(a.items, 1 << 16), kFlashThreads, kShared},
           flash_forward_kernel<D, masked>, a);
  });
  return true;
}

}  // namespace spectrain
