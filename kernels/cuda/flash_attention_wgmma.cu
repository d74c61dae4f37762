#include <string_view>

#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/flash_attention_rows.h"
#include "kernels/cuda/flash_attention_wgmma.h"
#include "kernels/cuda/launch.h"

// The forward pass with wgmma (sm_90a): warpgroups of 64 queries, three with 64 columns and two with 128,
// meet the same keys and values 128 at a time, from the diagonal backwards. Queries and keys are multiplied
// from shared memory, weights go from registers. A warpgroup's product of weights and values runs on while it
// starts the next tile's scores; while it takes exponentials the others' products keep the tensor cores busy.
//
// Floor: operations, 4 D for each pair of a query and a key it sees, 989 TFLOP/s on an H100. With 64 columns
// the exponentials (16 a cycle) take as long as the products do.

namespace spectrain {
namespace {

constexpr int kKeys = 128;  // of a tile
constexpr int kStages = 3;  // tiles in shared memory: one used, one before still read, one coming
constexpr int kRowsOfGroup = kWgmmaRows;  // queries of a warpgroup
template <int D>
constexpr int kGroups = D == 64 ? 3 : 2;  // warpgroups of a block: what registers allow
template <int D>
constexpr int kMatrixBytes = kKeys* D * 2;  // keys or values of a tile

template <int D>
constexpr std::size_t kShared = std::size_t{kGroups<D>} * kRowsOfGroup* D * 2 + 2 * kStages* kMatrixBytes<D>;

// Starts s[64,128] = queries . keys^T.
template <int D>
__device__ inline void start_scores(float (&s)[1][16][4], const unsigned char* queries,
                                    const unsigned char* keys) {
  clear(s);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
    wgmma_m64n128k16<bf16>(
        s[0], slab_descriptor(queries + k / 4 * kRowsOfGroup * kSlabRowBytes) + k % 4 * (kSlabStep >> 4),
        slab_descriptor(keys + k / 4 * kKeys * kSlabRowBytes) + k % 4 * (kSlabStep >> 4));
  products_commit();
}

// Starts out[64,D] += weights . values.
template <int D>
__device__ inline void start_values(float (&out)[1][D / 8][4], const std::uint32_t (&p)[8][4],
                                    const unsigned char* values) {
  wgmma_fence();
#pragma unroll
  for (int j = 0; j < kKeys / 16; ++j)
    wgmma_registers(out[0], p[j], rows_descriptor(values + j * 16 * kSlabRowBytes, kKeys * kSlabRowBytes));
  products_commit();
}

template <int D, bool kMasked>
__device__ inline void forward_step(FlashRows<D, 1>& r, std::uint32_t (&p)[8][4],
                                    const unsigned char* queries, const unsigned char* keys, int first,
                                    int row, float scale_log2) {
  // `row` is this warp's first one; all four warps of a group skip a tile, or none.
  if (first > (row | (kRowsOfGroup - 1))) return;
  float s[1][16][4];
  start_scores<D>(s, queries, keys);
  products_wait<0>();  // and for the values of the tile before: p and out are free
  // First keys never decrease: where the warp's last row sees this tile's first key, all do.
  if (first + kKeys - 1 > row || (kMasked && __any_sync(kWholeWarp, first < r.first_key[0][1])))
    hide(s, r, first, row);
  weigh(s, r, scale_log2);
  round_factor(p, s[0]);
  start_values<D>(r.out, p, keys + kMatrixBytes<D>);
}

template <int D, bool kMasked>
__global__ void __launch_bounds__(kGroups<D>* kWarpgroup, 1) flash_forward_wgmma_kernel(const FlashArgs a) {
  constexpr int kRows = kGroups<D> * kRowsOfGroup, kThreads = kGroups<D> * kWarpgroup,
                kGroupBytes = kRowsOfGroup * D * 2;
  auto* shared = static_cast<unsigned char*>(dynamic_shared());
  unsigned char* tiles = shared + kGroups<D> * kGroupBytes;
  const int row = __shfl_sync(kWholeWarp, warp_of_block(), 0) * 16;  // of this warp, in the block
  unsigned char* queries = shared + row / kRowsOfGroup * kGroupBytes;
  for (std::int64_t i = blockIdx.x; i < a.items; i += gridDim.x) {
    const FlashItem item = flash_item(i, a.blocks, a.together, a.all_heads);
    const std::int64_t b = item.head / a.heads;
    const int head = item.head % a.heads, first = (a.blocks - 1 - item.rank) * kRows;
    const bf16* k = a.qkv + b * a.context * a.packed + (a.heads + head / (a.heads / a.kv_heads)) * D;
    const int end = first + kRows < a.context ? first + kRows : a.context;
    const int last_tile = (end - 1) / kKeys;
    const int first_tile = kMasked ? a.visible.first_key(b, first) / kKeys : 0;
    const auto copy_keys = [&](int tile) {
      unsigned char* to = tiles + (last_tile - tile) % kStages * 2 * kMatrixBytes<D>;
      copy_slabs<D, kKeys, kThreads>(to, k, a.packed, tile * kKeys, a.context);
      copy_slabs<D, kKeys, kThreads>(to + kMatrixBytes<D>, k + a.kv_heads * D, a.packed, tile * kKeys,
                                     a.context);
      copies_commit();
    };
#pragma unroll
    for (int group = 0; group < kGroups<D>; ++group)
      copy_slabs<D, kRowsOfGroup, kThreads>(shared + group * kGroupBytes,
                                            a.qkv + b * a.context * a.packed + head * D, a.packed,
                                            first + group * kRowsOfGroup, a.context);
    copy_keys(last_tile);
    FlashRows<D, 1> r;
    begin_rows<kMasked>(r, a.visible, b, first + row);
    std::uint32_t p[8][4];
    for (int tile = last_tile; tile >= first_tile; --tile) {
      copies_wait<0>();
      fence_for_wgmma();
      // The tile is there for all, and nobody reads the one of two steps ago any more.
      __syncthreads();
      if (tile > first_tile) copy_keys(tile - 1);
      forward_step<D, kMasked>(r, p, queries, tiles + (last_tile - tile) % kStages * 2 * kMatrixBytes<D>,
                               tile * kKeys, first + row, a.scale_log2);
    }
    products_wait<0>();
    __syncthreads();  // the queries' memory is free to pass the results on
    finish_rows(a, r, reinterpret_cast<bf16*>(shared), row, recomputed(item.head), recomputed(first));
    __syncthreads();  // the tiles are free for the next piece
  }
}

}  // namespace

bool flash_has_wgmma(const CudaBackend& backend) {
#ifdef SPECTRAIN_EMULATED_CUDA
  const bool compiled = true;
#else
  const bool compiled =
      std::string_view("," SPECTRAIN_CUDA_CODE ",").find(",90a-real,") != std::string_view::npos;
#endif
  return compiled && backend.capability() == 90;
}

void flash_attention_wgmma(CudaBackend& backend, const HeadLayout& layout, const FlashArgs& arguments) {
  with_flash_kernel(layout, arguments.visible, [&](auto D, auto masked) {
    constexpr int kRows = kGroups<D> * kRowsOfGroup, kThreads = kGroups<D> * kWarpgroup;
    FlashArgs a = arguments;
    a.blocks = (a.context + kRows - 1) / kRows;
    a.items = std::int64_t{a.blocks} * a.all_heads;
    launch(backend.stream(), {backend.blocks_for(a.items, 1 << 16), kThreads, kShared<D>},
           flash_forward_wgmma_kernel<D, masked>, a);
  });
}

}  // namespace spectrain
