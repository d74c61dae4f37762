#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

constexpr std::int64_t kAttentionBlock = 64;  // queries, and keys, of one tile of scores

// The layout of a HeadLayout in plain numbers; qkv, dqkv [R, packed], out, dout [R, heads*head_dim] f32 or
// bf16.
struct AttentionArgs {
  std::int64_t batch, context, heads, kv_heads, head_dim;
  float scale;
  const std::int32_t* first_key;  // [batch, context], or null: 0 for all
  const void* qkv;
  void* out;
  float* lse;  // [batch, heads, context]; null in the forward pass when not wanted
  const void* dout;
  float* delta;  // [batch, heads, context]: sum over the head of dout * out
  void* dqkv;
};

// Entries [0] are for f32 tensors, [1] for bf16. A task touches nothing of another's output. Tiles are
// 64 x D floats, D = head_dim rounded up to 16; scratch is aligned to 64 bytes.
struct AttentionTable {
  // out and lse of the query blocks [first, last), which share each block of keys and values while it is in
  // the cache. scratch: 2 tiles + 64 x 64, and 2 tiles + 128 floats for each block
  void (*forward[2])(const AttentionArgs& a, std::int64_t batch, std::int64_t head, std::int64_t first,
                     std::int64_t last, float* scratch);
  // delta of the rows [begin, end)
  void (*delta[2])(const AttentionArgs& a, std::int64_t begin, std::int64_t end);
  // dq, dk, dv of everything that reads one key/value head: 5 products for each tile of scores.
  // scratch: 8 tiles + 2 x 64 x 64 + heads/kv_heads * (context rounded up to 64) * D floats
  void (*backward_all[2])(const AttentionArgs& a, std::int64_t batch, std::int64_t kv_head, float* scratch);
  // The same bits cut into smaller tasks, 7 products for each tile. scratch: 8 tiles + 2 x 64 x 64
  void (*backward_keys[2])(const AttentionArgs& a, std::int64_t batch, std::int64_t kv_head,
                           std::int64_t key_block, float* scratch);
  void (*backward_queries[2])(const AttentionArgs& a, std::int64_t batch, std::int64_t head,
                              std::int64_t query_block, float* scratch);
};
SPECTRAIN_ISA_TABLE(AttentionTable, attention_table)

}  // namespace spectrain
