#include <algorithm>

#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/launch.h"

// The backward pass: rowsum(dout * out) of each row first, then dq with queries held and keys streamed, and
// dk, dv with keys held and queries streamed (Dao 2023). Each result has one writer, which adds in one order;
// the price for that is that scores and dout . v^T are computed twice: 7 products for each tile instead of
// the 5 of a kernel whose blocks add to dq in whatever order they come.
//
// Floor: operations, 14 D for each pair of a query and a key it sees, on the tensor cores.

namespace spectrain {
namespace {

constexpr int kQueries = 128;  // of a block of the dq pass, and what rows of lse2 and delta are padded to

// delta = rowsum(dout * out), and lse in powers of two; rows beyond the context get numbers that make their
// weights 0. One group of D / 8 lanes for each row and head, neighbours in memory. Floor: dout and out once.
template <int D>
__global__ void flash_delta_kernel(const FlashArgs a) {
  constexpr int kLanes = D / 8;
  const std::int64_t sequences = a.all_heads / a.heads;
  // Whole warps all the way: padded is a multiple of 128.
  SPECTRAIN_GRID_LOOP(i, sequences * a.padded * a.heads * kLanes) {
    const std::int64_t group = i / kLanes, head = group % a.heads, row = group / a.heads;
    const std::int64_t b = row / a.padded, t = row % a.padded;
    float sum = 0;
    if (t < a.context) {
      const std::int64_t at = (b * a.context + t) * a.width + head * D + i % kLanes * 8;
      const Pack<bf16, 8> x = load_pack(a.dout + at), y = load_pack(a.out + at);
#pragma unroll
      for (int k = 0; k < 8; ++k) sum += static_cast<float>(x.v[k]) * static_cast<float>(y.v[k]);
    }
#pragma unroll
    for (int k = kLanes / 2; k > 0; k /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, k);
    if (i % kLanes == 0) {
      const std::int64_t to = (b * a.heads + head) * a.padded + t;
      a.delta[to] = sum;
      a.lse2[to] = t < a.context ? a.lse[(b * a.heads + head) * a.context + t] * kLog2E : INFINITY;
    }
  }
}

// ---- dq

// As many keys as leave room for two blocks on a multiprocessor.
template <int D>
constexpr int kKeyTile = D == 64 ? 64 : 32;

template <int D>
struct QueryState {
  static constexpr int M = kQueries / kFlashWarps / 16;
  float dq[M][D / 8][4];
  float lse2[M][2], delta[M][2];
  int first_key[M][2];
};

// Keys [first, first + 32) of the sequence, those from `at` on in the tiles. `row` is this warp's first one.
template <int D, bool kMasked>
__device__ inline void dq_step(QueryState<D>& r, const bf16* queries, const bf16* douts, int row_in_tile,
                               const bf16* keys, const bf16* values, int at, int first, int row,
                               float scale_log2) {
  constexpr int M = QueryState<D>::M, kStep = 32;
  if (first > row + 16 * M - 1) return;
  float p[M][kStep / 8][4], ds[M][kStep / 8][4];
  multiply_tiles<D>(p, queries, row_in_tile, keys, at);
  const int lane = lane_of_warp();
  const bool hides =
      first + kStep - 1 > row || (kMasked && __any_sync(kWholeWarp, first < r.first_key[M - 1][1]));
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        p[m][n][i] = fast_exp2(fmaf(p[m][n][i], scale_log2, -r.lse2[m][i / 2]));
        const int key = first + 8 * n + lane % 4 * 2 + i % 2, query = row + 16 * m + i / 2 * 8 + lane / 4;
        if (hides && (key > query || (kMasked && key < r.first_key[m][i / 2]))) p[m][n][i] = 0;
      }
  multiply_tiles<D>(ds, douts, row_in_tile, values, at);
#pragma unroll
  for (int m = 0; m < M; ++m)
#pragma unroll
    for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - r.delta[m][i / 2]);
  multiply_rounded<D>(r.dq, ds, keys, at);
}

template <int D>
__device__ inline void write_queries(const QueryState<D>& r, const FlashArgs& a, int head_of_all, int first,
                                     bf16* tile, int row) {
  constexpr int M = QueryState<D>::M;
  const std::int64_t b = head_of_all / a.heads, head = head_of_all % a.heads;
  float factor[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m) factor[m][0] = factor[m][1] = a.scale;
  write_rows<D>(r.dq, factor, tile, row, a.dqkv + b * a.context * a.packed + head * D, a.packed, first,
                a.context);
}

template <int D, bool kMasked>
__global__ void __launch_bounds__(kFlashThreads, 2) flash_dq_kernel(const FlashArgs a) {
  constexpr int M = QueryState<D>::M, kKeys = kKeyTile<D>;
  auto* queries = static_cast<bf16*>(dynamic_shared());
  bf16 *douts = queries + kQueries * D, *key_tiles = douts + kQueries * D;
  const int row = warp_of_block() * 16 * M;
  for (std::int64_t i = blockIdx.x; i < a.items; i += gridDim.x) {
    const FlashItem item = flash_item(i, a.blocks, a.together, a.all_heads);
    const std::int64_t b = item.head / a.heads;
    const int head = item.head % a.heads, first = (a.blocks - 1 - item.rank) * kQueries;
    const bf16* k = a.qkv + b * a.context * a.packed + (a.heads + head / (a.heads / a.kv_heads)) * D;
    const bf16* v = k + a.kv_heads * D;
    const int end = first + kQueries < a.context ? first + kQueries : a.context;
    const int last_tile = (end - 1) / kKeys;
    const int first_tile = kMasked ? a.visible.first_key(b, first) / kKeys : 0;
    copy_tile<D, kQueries>(queries, a.qkv + b * a.context * a.packed + head * D, a.packed, first, a.context);
    copy_tile<D, kQueries>(douts, a.dout + b * a.context * a.width + head * D, a.width, first, a.context);
    copy_tile<D, kKeys>(key_tiles, k, a.packed, last_tile * kKeys, a.context);
    copy_tile<D, kKeys>(key_tiles + kKeys * D, v, a.packed, last_tile * kKeys, a.context);
    copies_commit();
    QueryState<D> r;
    clear(r.dq);
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int at = first + row + 16 * m + 8 * half + lane_of_warp() / 4;
        r.lse2[m][half] = a.lse2[static_cast<std::int64_t>(item.head) * a.padded + at];
        r.delta[m][half] = a.delta[static_cast<std::int64_t>(item.head) * a.padded + at];
        r.first_key[m][half] = kMasked ? a.visible.first_key(b, at) : 0;
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
      for (int at = kKeys - 32; at >= 0; at -= 32)
        dq_step<D, kMasked>(r, queries, douts, row, keys, keys + kKeys * D, at, tile * kKeys + at,
                            first + row, a.scale_log2);
    }
    write_queries<D>(r, a, recomputed(item.head), recomputed(first), queries, row);
    __syncthreads();  // the tiles are free for the next piece
  }
}

template <int D, bool kMasked>
void run_dq(CudaBackend& backend, const FlashArgs& a) {
  constexpr std::size_t kShared = (2 * kQueries + 4 * kKeyTile<D>)*D * sizeof(bf16);
  launch(backend.stream(), {backend.blocks_for(a.items, 1 << 16), kFlashThreads, kShared},
         flash_dq_kernel<D, kMasked>, a);
}

}  // namespace

bool flash_attention_backward(CudaBackend& backend, const HeadLayout& layout, double scale,
                              const Tensor& dout, const Tensor& qkv, const Tensor& first_key,
                              const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  if (!flash_fits(layout, scale, {dout, qkv, out, dqkv})) return false;
  FlashArgs a = flash_arguments(layout, scale, qkv, first_key, kQueries, layout.heads);
  if (a.items == 0) return true;
  a.out = out.as<bf16>();
  a.dout = dout.as<bf16>();
  a.dqkv = dqkv.as<bf16>();
  a.lse = lse.as<float>();
  const std::int64_t rows = std::int64_t{a.all_heads} * a.padded;
  a.lse2 = static_cast<float*>(backend.scratch(static_cast<std::size_t>(2 * rows) * sizeof(float)));
  a.delta = a.lse2 + rows;
  const bool hopper = flash_has_wgmma(backend);
  with_flash_kernel(layout, a.visible, [&](auto D, auto masked) {
    constexpr int kDeltaThreads = 256;
    launch(backend.stream(), {backend.blocks_for(rows * (D / 8) / kDeltaThreads), kDeltaThreads},
           flash_delta_kernel<D>, a);
    if (!hopper) run_dq<D, masked>(backend, a);
  });
  if (hopper)
    flash_attention_backward_wgmma(backend, layout, a);
  else
    flash_attention_keys(backend, layout, a);
  return true;
}

}  // namespace spectrain
