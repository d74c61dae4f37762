#pragma once

#include <array>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa/gemm.h"

namespace spectrain {

// How a product is cut: C into blocks of block_m x block_n, one task each; the contraction into pieces of kc.
struct GemmPlan {
  std::int64_t block_m = 0, block_n = 0, kc = 0;
  std::int64_t blocks_m = 0, blocks_n = 0;
  bool rows_first = false;  // consecutive tasks walk down C: they share B's block, not A's
  int team = 1;             // threads worth waking
};

// What the matrix products keep between calls: the kernels for this CPU and each thread's packing memory,
// which has one fixed size and is allocated at the first product.
struct CpuBackend::Matrices {
  explicit Matrices(CpuBackend& backend);

  // A weight matrix as panels, once for x . W^T and once for dy . W.
  struct Prepared final : PreparedMatrix {
    Prepared(std::int64_t n, std::int64_t k) {
      rows_ = n;
      cols_ = k;
    }
    DType compute = DType::f32;
    const GemmKernels* kernels = nullptr;
    std::unique_ptr<Buffer> forward, backward;  // backward: null when it was not asked for
  };

  // The kernels that multiply operands of this dtype: bf16 pairs where the CPU multiplies them, else float32.
  const GemmKernels& kernels_for(bool bf16) const { return bf16 && pairs_ ? table_.pairs : table_.f32; }
  // C = alpha A . B^T + beta D + bias, all of C.
  void multiply(const GemmProblem& p, const GemmKernels& kernels);
  // The same for a C that is known to be symmetric: one triangle of blocks, mirrored.
  void multiply_symmetric(const GemmProblem& p, const GemmKernels& kernels);
  void pack(const Tensor& master, Prepared& matrix);

 private:
  GemmScratch scratch_of(int thread) const;
  void reserve_scratch();

  CpuBackend& backend_;
  const GemmTable& table_;
  bool pairs_;
  std::unique_ptr<Buffer> scratch_;
};

}  // namespace spectrain
