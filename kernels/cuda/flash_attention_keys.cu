#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/launch.h"

// dk and dv: a block of keys, held, meets the queries that see it, 64 at a time, of all heads that share the
// keys, one head after the other. Keys are the rows and queries the columns of a product, so that weights and
// score gradients, too, go from one product into the next without leaving the registers.
//
// Floor: operations, 8 D for each pair of a query and a key it sees. With 64 columns a warp holds 32 keys and
// the tensor cores are the limit; with 128 there are registers for 16 only, and the traffic from shared
// memory bounds it at about three quarters of that.

namespace spectrain {
namespace {

constexpr int kQueries = 64;  // of a tile

template <int D>
struct KeyState {
  static constexpr int M = D == 64 ? 2 : 1;
  static constexpr int kKeys = 16 * M * kFlashWarps;  // of a block
  static constexpr int kStep = D == 64 ? 32 : 64;     // queries worked on at once
  float dk[M][D / 8][4], dv[M][D / 8][4];
};

// A tile of queries with what belongs to them.
template <int D>
struct QueryTile {
  bf16 queries[kQueries * D], douts[kQueries * D];
  float lse2[kQueries], delta[kQueries];
  int first_key[kQueries];
};

template <int D, bool kMasked>
__device__ inline void copy_queries(QueryTile<D>& to, const FlashArgs& a, std::int64_t b, int head,
                                    int first) {
  copy_tile<D, kQueries>(to.queries, a.qkv + b * a.context * a.packed + head * D, a.packed, first, a.context);
  copy_tile<D, kQueries>(to.douts, a.dout + b * a.context * a.width + head * D, a.width, first, a.context);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t row = (b * a.heads + head) * a.padded + first;
  if (thread < kQueries / 4)
    copy_async(to.lse2 + 4 * thread, a.lse2 + row + 4 * thread);
  else if (thread < kQueries / 2)
    copy_async(to.delta + 4 * thread - kQueries, a.delta + row + 4 * thread - kQueries);
  if (kMasked && thread < kQueries) to.first_key[thread] = a.visible.first_key(b, first + thread);
  copies_commit();
}

// Queries [at, at + kStep) of the tile, whose first one is at `first` in the sequence; this warp's keys begin
// at `key`.
template <int D, bool kMasked>
__device__ inline void keys_step(KeyState<D>& r, const bf16* keys, const bf16* values, int key_in_tile,
                                 const QueryTile<D>& tile, int at, int first, int key, float scale_log2) {
  constexpr int M = KeyState<D>::M, kStep = KeyState<D>::kStep;
  if (first + at + kStep - 1 < key) return;  // all before this warp's keys
  float p[M][kStep / 8][4], ds[M][kStep / 8][4];
  multiply_tiles<D>(p, keys, key_in_tile, tile.queries, at);
  const int lane = lane_of_warp();
  // First keys never decrease: where the last of these queries sees this warp's first key, all do.
  const bool hides = first + at < key + 16 * M - 1 || (kMasked && key < tile.first_key[at + kStep - 1]);
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int column = at + 8 * n + lane % 4 * 2 + j, query = first + column;
      const float lse2 = tile.lse2[column];
      const int first_key = kMasked ? tile.first_key[column] : 0;
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& x = p[m][n][2 * half + j];
          x = fast_exp2(fmaf(x, scale_log2, -lse2));
          const int own = key + 16 * m + 8 * half + lane / 4;
          if (hides && (own > query || (kMasked && own < first_key))) x = 0;
        }
    }
  multiply_rounded<D>(r.dv, p, tile.douts, at);
  multiply_tiles<D>(ds, values, key_in_tile, tile.douts, at);
#pragma unroll
  for (int n = 0; n < kStep / 8; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const float delta = tile.delta[at + 8 * n + lane % 4 * 2 + j];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int i = 2 * half + j;
          ds[m][n][i] = p[m][n][i] * (ds[m][n][i] - delta);
        }
    }
  multiply_rounded<D>(r.dk, ds, tile.queries, at);
}

template <int D>
__device__ inline void write_keys(const KeyState<D>& r, const FlashArgs& a, int kv_head_of_all, int first,
                                  bf16* keys, bf16* values, int row) {
  constexpr int M = KeyState<D>::M;
  const std::int64_t b = kv_head_of_all / a.kv_heads, kv_head = kv_head_of_all % a.kv_heads;
  bf16* dk = a.dqkv + b * a.context * a.packed + (a.heads + kv_head) * D;
  float factor[M][2];
#pragma unroll
  for (int m = 0; m < M; ++m) factor[m][0] = factor[m][1] = a.scale;
  write_rows<D>(r.dk, factor, keys, row, dk, a.packed, first, a.context);
#pragma unroll
  for (int m = 0; m < M; ++m) factor[m][0] = factor[m][1] = 1;
  write_rows<D>(r.dv, factor, values, row, dk + a.kv_heads * D, a.packed, first, a.context);
}

template <int D, bool kMasked>
__global__ void __launch_bounds__(kFlashThreads, 2) flash_keys_kernel(const FlashArgs a) {
  constexpr int M = KeyState<D>::M, kKeys = KeyState<D>::kKeys;
  auto* keys = static_cast<bf16*>(dynamic_shared());
  bf16* values = keys + kKeys * D;
  auto* tiles = reinterpret_cast<QueryTile<D>*>(values + kKeys * D);
  const int row = warp_of_block() * 16 * M, group = a.heads / a.kv_heads;
  for (std::int64_t i = blockIdx.x; i < a.items; i += gridDim.x) {
    const FlashItem item = flash_item(i, a.blocks, a.together, a.all_heads);
    const std::int64_t b = item.head / a.kv_heads;
    const int kv_head = item.head % a.kv_heads,
              first = item.rank * kKeys;  // the first keys have most queries
    const std::int64_t k = b * a.context * a.packed + (a.heads + kv_head) * D, v = k + a.kv_heads * D;
    const int first_tile = first / kQueries;
    const int end = kMasked ? end_of_queries<kQueries>(a.visible, b, first_tile, first + kKeys - 1)
                            : (a.context + kQueries - 1) / kQueries;
    const int per_head = end - first_tile, count = group * per_head;
    copy_tile<D, kKeys>(keys, a.qkv + k, a.packed, first, a.context);
    copy_tile<D, kKeys>(values, a.qkv + v, a.packed, first, a.context);
    copy_queries<D, kMasked>(tiles[0], a, b, kv_head * group, first_tile * kQueries);
    KeyState<D> r;
    clear(r.dk);
    clear(r.dv);
    for (int n = 0; n < count; ++n) {
      copies_wait<0>();
      __syncthreads();  // the tile is there for all, and nobody reads the other one any more
      if (n + 1 < count)
        copy_queries<D, kMasked>(tiles[(n + 1) % 2], a, b, kv_head * group + (n + 1) / per_head,
                                 (first_tile + (n + 1) % per_head) * kQueries);
#pragma unroll 1
      for (int at = 0; at < kQueries; at += KeyState<D>::kStep)
        keys_step<D, kMasked>(r, keys, values, row, tiles[n % 2], at, (first_tile + n % per_head) * kQueries,
                              first + row, a.scale_log2);
    }
    write_keys<D>(r, a, recomputed(item.head), recomputed(first), keys, values, row);
    __syncthreads();  // the tiles are free for the next piece
  }
}

template <int D, bool kMasked>
void run(CudaBackend& backend, FlashArgs a, std::int64_t sequences) {
  constexpr int kKeys = KeyState<D>::kKeys;
  a.blocks = (a.context + kKeys - 1) / kKeys;
  a.all_heads = static_cast<int>(sequences) * a.kv_heads;
  a.items = std::int64_t{a.blocks} * a.all_heads;
  constexpr std::size_t kShared = 2 * kKeys * D * sizeof(bf16) + 2 * sizeof(QueryTile<D>);
  launch(backend.stream(), {backend.blocks_for(a.items, 1 << 16), kFlashThreads, kShared},
         flash_keys_kernel<D, kMasked>, a);
}

}  // namespace

void flash_attention_keys(CudaBackend& backend, const HeadLayout& layout, const FlashArgs& arguments) {
  with_flash_kernel(layout, arguments.visible,
                    [&](auto D, auto masked) { run<D, masked>(backend, arguments, layout.batch); });
}

}  // namespace spectrain
