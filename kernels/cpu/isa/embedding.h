#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

struct EmbeddingForward {
  const std::int32_t* tokens = nullptr;
  const float *table = nullptr, *positions = nullptr;  // positions may be null
  std::int64_t context = 0, cols = 0;
  void* out = nullptr;
};

struct EmbeddingBackward {
  const std::int32_t* tokens = nullptr;
  const void* dout = nullptr;
  std::int64_t rows = 0, context = 0, cols = 0;
  float *dtable = nullptr, *dpositions = nullptr;  // either may be null
};

// Index: 0 = f32, 1 = bf16.
struct EmbeddingTable {
  void (*forward[2])(const EmbeddingForward& p, std::int64_t begin, std::int64_t end);    // rows
  void (*backward[2])(const EmbeddingBackward& p, std::int64_t begin, std::int64_t end);  // columns
};
SPECTRAIN_ISA_TABLE(EmbeddingTable, embedding_table)

}  // namespace spectrain
