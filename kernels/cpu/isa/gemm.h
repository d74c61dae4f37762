#pragma once

#include <cstdint>

#include "kernels/cpu/isa/isa.h"

// The blocked matrix product of the CPU backend: C[m,n] = alpha A[m,k] . B[n,k]^T + beta D[m,n] + bias[n].
//
// Both operands are read as panels: `rows` rows of A (or `cols` rows of B) side by side, contraction index
// slowest, so that one step of the innermost loop reads consecutive memory. A panel holds 32-bit words:
// float32 elements, or pairs of bf16 that are neighbours in k, which is what a bf16 dot-product instruction
// takes. Each thread packs the panels of its block of C itself, into memory that stays in its second-level
// cache; a weight matrix is packed once for many products and given as b_panels.

namespace spectrain {

// Element (i, k) is data[i * ld + k], or data[k * ld + i] when k_rows.
struct GemmSource {
  const void* data = nullptr;
  std::int64_t ld = 0;
  bool bf16 = false;
  bool k_rows = false;
  bool round = false;  // a float32 operand of a bf16 product: counts as rounded to bf16
};

struct GemmProblem {
  std::int64_t m = 0, n = 0, k = 0;
  GemmSource a, b;
  const void* b_panels = nullptr;  // B as pack() wrote it, instead of b
  float alpha = 1, beta = 0;
  const void* d = nullptr;  // [m,n] of c's dtype, may be c; null: nothing is added, c is not read
  const float* bias = nullptr;
  void* c = nullptr;
  bool c_bf16 = false;
  std::int64_t ldc = 0;  // of c and d
};

// Rows [m0,m1) and columns [n0,n1) of C; m0 is a multiple of rows, n0 of cols (of GemmKernels).
struct GemmBlock {
  std::int64_t m0 = 0, m1 = 0, n0 = 0, n1 = 0;
};

// Memory of one thread, 64-byte aligned. a: (block rows, rounded up to panels) * kc words; b: (block columns,
// rounded up) * kc words, not needed with b_panels; c: block rows * block columns floats (both rounded up),
// one tile when kc >= k.
struct GemmScratch {
  void* a = nullptr;
  void* b = nullptr;
  float* c = nullptr;
};

struct GemmKernels {
  std::int64_t rows, cols;  // of the register tile: the widths of the panels of A and of B
  std::int64_t k_step;      // elements of k in a word: 1 (float32) or 2 (bf16 pairs)
  // One block of C, contraction in pieces of kc elements (a multiple of k_step). Subnormal sums count as
  // zero.
  void (*block)(const GemmProblem& p, const GemmBlock& block, std::int64_t kc, const GemmScratch& scratch);
  // Panels [first, last) of B [n,k] into panels: panel i starts at word i * cols * ceil(k / k_step).
  void (*pack)(const GemmSource& b, std::int64_t n, std::int64_t k, std::int64_t first, std::int64_t last,
               void* panels);
  // C's block mirrored at the diagonal: c[j,i] = c[i,j] for i in [m0,m1), j in [n0,n1), j < i.
  void (*mirror)(const GemmProblem& p, const GemmBlock& block);
  // sums[j] = sum over rows of x[r, first + j], j < count <= 64, in the fixed order of 64-row groups.
  void (*column_sums)(const GemmSource& x, std::int64_t rows, std::int64_t first, std::int64_t count,
                      float* sums);
};

struct GemmTable {
  GemmKernels f32;
  GemmKernels pairs;  // block is null where the instruction set has no bf16 dot product
};
SPECTRAIN_ISA_TABLE(GemmTable, gemm_table)

}  // namespace spectrain
