#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

constexpr std::int64_t kLargestHead = 256;  // elements of one head that fit the buffers on the stack

struct QkTransformArgs {
  std::int64_t context, heads, kv_heads, head_dim;
  bool norm, interleaved;
  float eps, sign;
  const float *cos, *sin;  // [context, head_dim/2]; null: no rotation
  const void* in;          // forward: the input; backward: the gradient of the output
  const void* result;      // backward only: the output of the forward pass
  void* out;               // may be in
  float* rstd;             // [R, heads + kv_heads]; may be null without norm
};

// Entries [0] for f32 tensors, [1] for bf16; rows [begin, end).
struct QkTransformTable {
  void (*forward[2])(const QkTransformArgs& a, std::int64_t begin, std::int64_t end);
  void (*backward[2])(const QkTransformArgs& a, std::int64_t begin, std::int64_t end);
};
SPECTRAIN_ISA_TABLE(QkTransformTable, qk_transform_table)

}  // namespace spectrain
