#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/flash_attention_wgmma.h"
#include "kernels/cuda/launch.h"

// The backward pass with wgmma (sm_90a), cut as in flash_attention_backward.cu and flash_attention_keys.cu:
// one kernel with queries held for dq, one with keys held for dk and dv. A warpgroup holds 64 rows of two
// matrices in shared memory, meets tiles of 64 rows of two others, and each tile serves twice: its rows are
// right factors across (scores) and along (gradients). The products of a step that end in gradients run on
// while the next step's scores are made.
//
// Floor: operations, 14 D for each pair of a query and a key it sees, on the tensor cores.

namespace spectrain {
namespace {

constexpr int kTile = 64, kStages = 3;  // streamed rows of a step; steps in shared memory
constexpr int kRowsOfGroup = kWgmmaRows;
template <int D>
constexpr int kGroups = D == 64 ? 3 : 2;
template <int D>
constexpr int kThreads = kGroups<D>* kWarpgroup;
template <int D>
constexpr int kHeldRows = kGroups<D>* kRowsOfGroup;
template <int D>
constexpr int kGroupBytes = kRowsOfGroup* D * 2;  // of one held matrix, of one warpgroup

// Two matrices of a step (keys and values, or queries and dout) and what belongs to each of its queries.
template <int D>
struct alignas(1024) Stage {
  unsigned char across[kTile * D * 2], other[kTile * D * 2];
  float lse2[kTile], delta[kTile];
  int first_key[kTile];
};
template <int D>
constexpr std::size_t kShared = 2 * kGroups<D>* kGroupBytes<D> + kStages * sizeof(Stage<D>);

// Computes p[64,64] = rows . tile^T and dp = other_rows . other_tile^T; the products started before are done
// then, too.
template <int D>
__device__ inline void multiply_scores(float (&p)[8][4], float (&dp)[8][4], const unsigned char* rows,
                                       const unsigned char* other_rows, const Stage<D>& stage) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    const int held = k / 4 * kRowsOfGroup * kSlabRowBytes, streamed = k / 4 * kTile * kSlabRowBytes;
    const std::uint64_t inside = k % 4 * (kSlabStep >> 4);
    const std::uint64_t a = slab_descriptor(rows + held) + inside;
    const std::uint64_t b = slab_descriptor(stage.across + streamed) + inside;
    const std::uint64_t other_a = slab_descriptor(other_rows + held) + inside;
    const std::uint64_t other_b = slab_descriptor(stage.other + streamed) + inside;
    if (k == 0) {
      wgmma_m64n64k16<false>(p, a, b);
      wgmma_m64n64k16<false>(dp, other_a, other_b);
    } else {
      wgmma_m64n64k16<true>(p, a, b);
      wgmma_m64n64k16<true>(dp, other_a, other_b);
    }
  }
  products_commit();
  products_wait<0>();
}

// Starts c[64,D] += p . tile, as a group of its own; p is rounded to bf16 into `factor`, which holds it until
// the product is done.
template <int D>
__device__ inline void start_gradient(float (&c)[1][D / 8][4], std::uint32_t (&factor)[4][4],
                                      const float (&p)[8][4], const unsigned char* tile) {
  round_factor(factor, p);
  wgmma_fence();
#pragma unroll
  for (int j = 0; j < kTile / 16; ++j)
    wgmma_registers(c[0], factor[j], rows_descriptor(tile + j * 16 * kSlabRowBytes, kTile * kSlabRowBytes));
  products_commit();
}

template <int D, int kRows>
__device__ inline void copy(unsigned char* slabs, const bf16* from, std::int64_t stride, int first,
                            int limit) {
  copy_slabs<D, kRows, kThreads<D>>(slabs, from, stride, first, limit);
}
// Held rows lie group by group.
template <int D>
__device__ inline void copy_held(unsigned char* to, const bf16* from, std::int64_t stride, int first,
                                 int limit) {
#pragma unroll
  for (int group = 0; group < kGroups<D>; ++group)
    copy<D, kRowsOfGroup>(to + group * kGroupBytes<D>, from, stride, first + group * kRowsOfGroup, limit);
}

// Behind the last step: the products are done and the held rows' memory is free to pass results on.
__device__ inline void end_of_steps() {
  products_wait<0>();
  __syncthreads();
}

// ---- dq

template <int D>
struct QueryRows {
  float dq[1][D / 8][4];
  float lse2[2], delta[2];
  int first_key[2];
  std::uint32_t ds[4][4];
};

// Keys [first, first + 64). `row` is this warp's first query.
template <int D, bool kMasked>
__device__ inline void dq_step(QueryRows<D>& r, const unsigned char* queries, const unsigned char* douts,
                               const Stage<D>& stage, int first, int row, float scale_log2) {
  if (first > (row | (kRowsOfGroup - 1))) return;  // all in the future of the warpgroup
  float p[8][4], dp[8][4];
  multiply_scores<D>(p, dp, queries, douts, stage);
  const int lane = lane_of_warp();
  const bool hides = first + kTile - 1 > row || (kMasked && __any_sync(kWholeWarp, first < r.first_key[1]));
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i)
      dp[n][i] = fast_exp2(fmaf(p[n][i], scale_log2, -r.lse2[i / 2])) * (dp[n][i] - r.delta[i / 2]);
  if (hides) {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int key = first + 8 * n + lane % 4 * 2 + i % 2, query = row + i / 2 * 8 + lane / 4;
        if (key > query || (kMasked && key < r.first_key[i / 2])) dp[n][i] = 0;
      }
  }
  start_gradient<D>(r.dq, r.ds, dp, stage.across);
}

template <int D, bool kMasked>
__device__ inline void begin_queries(QueryRows<D>& r, const FlashArgs& a, int head_of_all, std::int64_t b,
                                     int row) {
  clear(r.dq);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int at = row + 8 * half + lane_of_warp() / 4;
    const std::int64_t in_row = std::int64_t{head_of_all} * a.padded + at;
    const bool there = at < a.padded;  // blocks of 192 go beyond what is padded to 128
    r.lse2[half] = there ? a.lse2[in_row] : INFINITY;
    r.delta[half] = there ? a.delta[in_row] : 0;
    r.first_key[half] = kMasked ? a.visible.first_key(b, at) : 0;
  }
}

template <int D>
__device__ inline void write_queries(const QueryRows<D>& r, const FlashArgs& a, int head_of_all, int first,
                                     unsigned char* shared, int row) {
  const std::int64_t b = head_of_all / a.heads, head = head_of_all % a.heads;
  const float factor[1][2] = {{a.scale, a.scale}};
  write_rows<D>(r.dq, factor, reinterpret_cast<bf16*>(shared), row,
                a.dqkv + b * a.context * a.packed + head * D, a.packed, first, a.context);
}

template <int D, bool kMasked>
__global__ void __launch_bounds__(kThreads<D>, 1) flash_dq_wgmma_kernel(const FlashArgs a) {
  auto* queries = static_cast<unsigned char*>(dynamic_shared());
  unsigned char* douts = queries + kGroups<D> * kGroupBytes<D>;
  auto* stages = reinterpret_cast<Stage<D>*>(douts + kGroups<D> * kGroupBytes<D>);
  const int row = __shfl_sync(kWholeWarp, warp_of_block(), 0) * 16, own = row / kRowsOfGroup * kGroupBytes<D>;
  for (std::int64_t i = blockIdx.x; i < a.items; i += gridDim.x) {
    const FlashItem item = flash_item(i, a.blocks, a.together, a.all_heads);
    const std::int64_t b = item.head / a.heads;
    const int head = item.head % a.heads, first = (a.blocks - 1 - item.rank) * kHeldRows<D>;
    const bf16* k = a.qkv + b * a.context * a.packed + (a.heads + head / (a.heads / a.kv_heads)) * D;
    const int end = first + kHeldRows<D> < a.context ? first + kHeldRows<D> : a.context;
    const int last_tile = (end - 1) / kTile;
    const int first_tile = kMasked ? a.visible.first_key(b, first) / kTile : 0;
    const auto copy_keys = [&](int tile) {
      Stage<D>& to = stages[(last_tile - tile) % kStages];
      copy<D, kTile>(to.across, k, a.packed, tile * kTile, a.context);
      copy<D, kTile>(to.other, k + a.kv_heads * D, a.packed, tile * kTile, a.context);
      copies_commit();
    };
    copy_held<D>(queries, a.qkv + b * a.context * a.packed + head * D, a.packed, first, a.context);
    copy_held<D>(douts, a.dout + b * a.context * a.width + head * D, a.width, first, a.context);
    copy_keys(last_tile);
    QueryRows<D> r;
    begin_queries<D, kMasked>(r, a, item.head, b, first + row);
    for (int tile = last_tile; tile >= first_tile; --tile) {
      copies_wait<0>();
      fence_for_wgmma();
      // The tile is there for all, and nobody reads the one of two steps ago any more.
      __syncthreads();
      if (tile > first_tile) copy_keys(tile - 1);
      dq_step<D, kMasked>(r, queries + own, douts + own, stages[(last_tile - tile) % kStages], tile * kTile,
                          first + row, a.scale_log2);
    }
    end_of_steps();
    write_queries<D>(r, a, recomputed(item.head), recomputed(first), queries, row);
    __syncthreads();  // the memory is free for the next piece
  }
}

// ---- dk, dv

template <int D>
struct KeyRows {
  float dk[1][D / 8][4], dv[1][D / 8][4];
  std::uint32_t p[4][4], ds[4][4];
};

template <int D, bool kMasked>
__device__ inline void copy_queries(Stage<D>& to, const FlashArgs& a, std::int64_t b, int head, int first) {
  copy<D, kTile>(to.across, a.qkv + b * a.context * a.packed + head * D, a.packed, first, a.context);
  copy<D, kTile>(to.other, a.dout + b * a.context * a.width + head * D, a.width, first, a.context);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t row = (b * a.heads + head) * a.padded + first;
  if (thread < kTile / 4)
    copy_async(to.lse2 + 4 * thread, a.lse2 + row + 4 * thread);
  else if (thread < kTile / 2)
    copy_async(to.delta + 4 * thread - kTile, a.delta + row + 4 * thread - kTile);
  if (kMasked && thread < kTile) to.first_key[thread] = a.visible.first_key(b, first + thread);
  copies_commit();
}

// Queries [first, first + 64); this warp's keys begin at `key`.
template <int D, bool kMasked>
__device__ inline void keys_step(KeyRows<D>& r, const unsigned char* keys, const unsigned char* values,
                                 const Stage<D>& stage, int first, int key, float scale_log2) {
  if (first + kTile - 1 < (key & ~(kRowsOfGroup - 1))) {  // all before the warpgroup's keys
    // The last products for the head before: the next step overwrites their queries.
    products_wait<0>();
    return;
  }
  float p[8][4], dp[8][4];
  multiply_scores<D>(p, dp, keys, values, stage);
  const int lane = lane_of_warp();
  // first_key never decreases: where the last query of the tile sees this warp's first key, all do.
  const bool hides = first < key + 15 || (kMasked && key < stage.first_key[kTile - 1]);
#pragma unroll
  for (int n = 0; n < 8; ++n)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 8 * n + lane % 4 * 2 + i % 2;
      p[n][i] = fast_exp2(fmaf(p[n][i], scale_log2, -stage.lse2[column]));
      dp[n][i] = p[n][i] * (dp[n][i] - stage.delta[column]);
    }
  if (hides) {
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = 8 * n + lane % 4 * 2 + j, first_key = kMasked ? stage.first_key[column] : 0;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int own = key + half * 8 + lane / 4;
          const bool hidden = (own > first + column) | (own < first_key);
          p[n][2 * half + j] = hidden ? 0.0f : p[n][2 * half + j];
          dp[n][2 * half + j] = hidden ? 0.0f : dp[n][2 * half + j];
        }
      }
  }
  start_gradient<D>(r.dv, r.p, p, stage.other);
  start_gradient<D>(r.dk, r.ds, dp, stage.across);
  // Three warpgroups keep the tensor cores busy for each other, and have no registers for factors still in
  // use beside the next scores.
  if (kGroups < D >> 2) products_wait<0>();
}

template <int D>
__device__ inline void write_keys(const KeyRows<D>& r, const FlashArgs& a, int kv_head_of_all, int first,
                                  unsigned char* keys, unsigned char* values, int row) {
  const std::int64_t b = kv_head_of_all / a.kv_heads, kv_head = kv_head_of_all % a.kv_heads;
  bf16* dk = a.dqkv + b * a.context * a.packed + (a.heads + kv_head) * D;
  const float scaled[1][2] = {{a.scale, a.scale}}, as_is[1][2] = {{1, 1}};
  write_rows<D>(r.dk, scaled, reinterpret_cast<bf16*>(keys), row, dk, a.packed, first, a.context);
  write_rows<D>(r.dv, as_is, reinterpret_cast<bf16*>(values), row, dk + a.kv_heads * D, a.packed, first,
                a.context);
}

template <int D, bool kMasked>
__global__ void __launch_bounds__(kThreads<D>, 1) flash_keys_wgmma_kernel(const FlashArgs a) {
  auto* keys = static_cast<unsigned char*>(dynamic_shared());
  unsigned char* values = keys + kGroups<D> * kGroupBytes<D>;
  auto* stages = reinterpret_cast<Stage<D>*>(values + kGroups<D> * kGroupBytes<D>);
  const int row = __shfl_sync(kWholeWarp, warp_of_block(), 0) * 16, own = row / kRowsOfGroup * kGroupBytes<D>;
  const int group = a.heads / a.kv_heads;
  for (std::int64_t i = blockIdx.x; i < a.items; i += gridDim.x) {
    const FlashItem item = flash_item(i, a.blocks, a.together, a.all_heads);
    const std::int64_t b = item.head / a.kv_heads;
    const int kv_head = item.head % a.kv_heads, first = item.rank * kHeldRows<D>;
    const int first_tile = first / kTile, all_tiles = (a.context + kTile - 1) / kTile;
    const int end =
        kMasked ? end_of_queries<kTile>(a.visible, b, first_tile, first + kHeldRows<D> - 1) : all_tiles;
    const int per_head = end - first_tile, count = group * per_head;
    const bf16* k = a.qkv + b * a.context * a.packed + (a.heads + kv_head) * D;
    const auto copy_tile_of = [&](int n) {
      copy_queries<D, kMasked>(stages[n % kStages], a, b, kv_head * group + n / per_head,
                               (first_tile + n % per_head) * kTile);
    };
    copy_held<D>(keys, k, a.packed, first, a.context);
    copy_held<D>(values, k + a.kv_heads * D, a.packed, first, a.context);
    copy_tile_of(0);
    KeyRows<D> r;
    clear(r.dk);
    clear(r.dv);
    for (int n = 0; n < count; ++n) {
      copies_wait<0>();
      fence_for_wgmma();
      __syncthreads();  // as above
      if (n + 1 < count) copy_tile_of(n + 1);
      keys_step<D, kMasked>(r, keys + own, values + own, stages[n % kStages],
                            (first_tile + n % per_head) * kTile, first + row, a.scale_log2);
    }
    end_of_steps();
    write_keys<D>(r, a, recomputed(item.head), recomputed(first), keys, values, row);
    __syncthreads();  // the memory is free for the next piece
  }
}

template <int D, bool kMasked>
void run(CudaBackend& backend, FlashArgs a, const HeadLayout& layout) {
  a.blocks = (a.context + kHeldRows<D> - 1) / kHeldRows<D>;
  a.items = std::int64_t{a.blocks} * a.all_heads;
  launch(backend.stream(), {backend.blocks_for(a.items, 1 << 16), kThreads<D>, kShared<D>},
         flash_dq_wgmma_kernel<D, kMasked>, a);
  a.all_heads = static_cast<int>(layout.batch * layout.kv_heads);
  a.items = std::int64_t{a.blocks} * a.all_heads;
  launch(backend.stream(), {backend.blocks_for(a.items, 1 << 16), kThreads<D>, kShared<D>},
         flash_keys_wgmma_kernel<D, kMasked>, a);
}

}  // namespace

void flash_attention_backward_wgmma(CudaBackend& backend, const HeadLayout& layout,
                                    const FlashArgs& arguments) {
  with_flash_kernel(layout, arguments.visible,
                    [&](auto D, auto masked) { run<D, masked>(backend, arguments, layout); });
}

}  // namespace spectrain
