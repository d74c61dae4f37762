#include <algorithm>

#include "kernels/cuda/flash_attention.h"
#include "kernels/cuda/flash_attention_rows.h"
#include "kernels/cuda/launch.h"

// The forward pass (Dao 2023, FlashAttention-2): a block of 128 queries, 32 to each warp, meets the keys and
// values 64 at a time, from the diagonal backwards, with a running maximum and sum for each row.
//
// Floor: operations. 4 D for each pair of a query and a key it sees, on the tensor cores; mma.sync reaches
// about 60 % of what wgmma does on an H100, which therefore has flash_attention_wgmma.cu. A warp of 32 rows
// uses each fragment of keys and values twice: with 16 rows shared memory (128 bytes a cycle) would be slower
// than the tensor cores. Keys and values of a group of heads are read from memory once and from the L2 cache
// by all blocks of queries.

namespace spectrain {
namespace {

constexpr int kRows = 128, kKeys = 64;  // of a block, of a tile
constexpr int M = kRows / kFlashWarps / 16;
// Keys of a tile that are worked on at once: with 128 columns of results there are no registers for more.
template <int D>
constexpr int kStep = D == 64 ? 64 : 32;

// Keys [first, first + kStep) of the sequence, which are those from `at` on in the tiles.
template <int D, bool kMasked>
__device__ inline void forward_step(FlashRows<D, M>& r, const bf16* queries, int row_in_tile,
                                    const bf16* keys, const bf16* values, int at, int first, int row,
                                    float scale_log2) {
  if (first > row + 16 * M - 1) return;  // all in the future of this warp's rows
  float s[M][kStep<D> / 8][4];
  multiply_tiles<D>(s, queries, row_in_tile, keys, at);
  // First keys never decrease: where the warp's last row sees this tile's first key, all do.
  if (first + kStep<D> - 1 > row || (kMasked && __any_sync(kWholeWarp, first < r.first_key[M - 1][1])))
    hide(s, r, first, row);
  weigh(s, r, scale_log2);
  multiply_rounded<D>(r.out, s, values, at);
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

    FlashRows<D, M> r;
    begin_rows<kMasked>(r, a.visible, b, first + row);
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
    finish_rows(a, r, query_tile, row, recomputed(item.head), recomputed(first));
    __syncthreads();  // the tiles are free for the next piece
  }
}

}  // namespace

bool flash_fits(const HeadLayout& layout, double scale, std::initializer_list<Tensor> tensors) {
  for (const Tensor& t : tensors)
    if (t.dtype != DType::bf16 || reinterpret_cast<std::uintptr_t>(t.data) % 16 != 0) return false;
  return (layout.head_dim == 64 || layout.head_dim == 128) && scale > 0 && layout.context < (1 << 30) &&
         layout.batch * layout.heads < (1 << 30);
}

FlashArgs flash_arguments(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
                          int rows, std::int64_t heads) {
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
  a.visible = visible(first_key, layout.context);
  a.scale = static_cast<float>(scale);
  a.scale_log2 = static_cast<float>(scale * 1.4426950408889634);
  a.qkv = qkv.as<bf16>();
  return a;
}

bool flash_attention(CudaBackend& backend, const HeadLayout& layout, double scale, const Tensor& qkv,
                     const Tensor& first_key, const Tensor& out, const Tensor& lse) {
  if (!flash_fits(layout, scale, {qkv, out})) return false;
  FlashArgs a = flash_arguments(layout, scale, qkv, first_key, kRows, layout.heads);
  if (a.items == 0) return true;
  a.out_written = out.as<bf16>();
  a.lse = lse ? lse.as<float>() : nullptr;
  if (flash_has_wgmma(backend)) {
    flash_attention_wgmma(backend, layout, a);
    return true;
  }
  with_flash_kernel(layout, a.visible, [&](auto D, auto masked) {
    constexpr std::size_t kShared = (kRows + 4 * kKeys) * D * sizeof(bf16);
    launch(backend.stream(), {backend.blocks_for(a.items, 1 << 16), kFlashThreads, kShared},
           flash_forward_kernel<D, masked>, a);
  });
  return true;
}

}  // namespace spectrain
