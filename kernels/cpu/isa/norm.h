#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

// Null pointers stand for empty tensors.
struct NormForward {
  const void *a = nullptr, *b = nullptr;  // add_norm: x = a + b is written first
  void* x = nullptr;                      // read only when a is null
  const float *gain = nullptr, *bias = nullptr;
  float eps = 0;
  void* y = nullptr;
  float *mean = nullptr, *rstd = nullptr;
  std::int64_t cols = 0;
};

struct NormBackward {
  const void *dy = nullptr, *x = nullptr;
  const float *gain = nullptr, *mean = nullptr, *rstd = nullptr;
  void* dx = nullptr;
  bool accumulate = false;
  std::int64_t cols = 0;
};

// First index: 0 = f32, 1 = bf16; second: 0 = layer, 1 = rms (NormKind). Rows [begin, end).
struct NormTable {
  void (*forward[2][2])(const NormForward& p, std::int64_t begin, std::int64_t end);
  // dgain, dbias [cols]: these rows' share is added; both null when neither is wanted.
  void (*backward[2][2])(const NormBackward& p, float* dgain, float* dbias, std::int64_t begin,
                         std::int64_t end);
};
SPECTRAIN_ISA_TABLE(NormTable, norm_table)

}  // namespace spectrain
