#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

struct CrossEntropyArgs {
  std::int64_t columns, vocab;  // of a row in memory, and of those the ones that are logits
  const float* logits;
  const std::int32_t* targets;
  float cap, divisor, offset;
  float gradient_scale;
  float* losses;
  void* dlogits;  // null: losses only; may be logits
};

// [kind of softcap: none, tanh, sigmoid, rational][dlogits: f32, bf16]; rows [begin, end).
struct CrossEntropyTable {
  void (*rows[4][2])(const CrossEntropyArgs& a, std::int64_t begin, std::int64_t end);
};
SPECTRAIN_ISA_TABLE(CrossEntropyTable, cross_entropy_table)

}  // namespace spectrain
