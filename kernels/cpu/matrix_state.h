#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa/gemm.h"
#include "kernels/cpu/matrix_choice.h"
#include "kernels/cpu/matrix_onednn.h"

namespace spectrain {

// What happens to rows of C as soon as they are finished and still in the cache: run(row of C, row of to,
// elements).
struct RowPass {
  void (*run)(const void* from, void* to, std::int64_t n) = nullptr;
  void* to = nullptr;  // [m,n] of C's dtype; may be C
};

// What the matrix products keep between calls: the kernels for this CPU, oneDNN's primitives, and memory to
// pack in that only grows. All of it is allocated through the backend and so counts in allocated_bytes().
struct CpuBackend::Matrices {
  explicit Matrices(CpuBackend& backend);

  // A weight matrix in its engine's layout, once for x . W^T and once for dy . W.
  struct Prepared final : PreparedMatrix {
    Prepared(std::int64_t n, std::int64_t k) {
      rows_ = n;
      cols_ = k;
    }
    DType compute = DType::f32;
    MatrixEngine engine = MatrixEngine::own;
    std::unique_ptr<Buffer> forward, backward;  // backward: null when it was not asked for
  };

  // Bytes of one of the two layouts: op(b) [k,n].
  static std::size_t layout_bytes(const MatrixMachine& machine, std::int64_t k, std::int64_t n,
                                  DType compute);
  void pack(const Tensor& master, Prepared& matrix);
  MatrixEngine engine(DType compute) const { return choose_engine(machine_, compute); }
  const MatrixMachine& machine() const { return machine_; }

  // The kernels that multiply operands of this dtype: bf16 pairs where the CPU multiplies them, else float32.
  static const GemmKernels& kernels_for(Isa isa, DType compute);
  const GemmKernels& kernels_for(DType compute) const { return kernels_for(machine_.isa, compute); }

  // C = alpha A . B^T + beta D + bias, all of C, then the pass over its rows.
  void multiply(const GemmProblem& p, DType compute, const RowPass& pass = {});
  // The same for a C that is known to be symmetric: one triangle of blocks, mirrored.
  void multiply_symmetric(const GemmProblem& p, DType compute);
  // The lower triangle of c [m,m] copied over the upper one.
  void mirror(const Tensor& c);
  // Through oneDNN. a and b may be float32 in a bf16 product: they are rounded first.
  void multiply_onednn(OnednnProduct p, DType compute);

 private:
  GemmScratch scratch_of(int thread) const;
  void reserve_scratch();
  Tensor in_dtype(const Tensor& t, DType compute, std::unique_ptr<Buffer>& place);
  void* grown(std::unique_ptr<Buffer>& buffer, std::size_t bytes);

  CpuBackend& backend_;
  MatrixMachine machine_;
  std::unique_ptr<Buffer> scratch_;  // own kernels: each thread's blocks
  std::unique_ptr<Buffer> workspace_, copy_a_, copy_b_,
      sums_;  // oneDNN: its workspace; operands, results in another dtype
  OnednnProducts onednn_;
};

}  // namespace spectrain
