#pragma once

#include "kernels/backend.h"

namespace spectrain {

// What the CUDA backend allocates, for planning a run without a device: plain C++ in the program itself.
class CudaSizes final : public BackendSizes {
 public:
  static constexpr int kH100Multiprocessors = 132;
  // Work memory of the library of matrix products, and inputs on their way.
  static constexpr std::size_t kProductWorkspace = std::size_t{32} << 20;
  static constexpr std::size_t kInboxBytes = std::size_t{16} << 20;

  explicit CudaSizes(int multiprocessors = kH100Multiprocessors) : multiprocessors_(multiprocessors) {}

  std::string_view name() const override { return "cuda"; }
  DType logits(DType compute) const override { return compute; }
  std::size_t prepared_bytes(Shape shape, DType compute, bool backward) const override;
  std::size_t prepared_fp8_bytes(Shape shape, DType compute) const override;
  std::size_t working_bytes() const override { return kProductWorkspace; }
  std::int64_t matrices_at_once(Shape matrix) const override;
  // How much cuSOLVER wants is known only where there is a device. What is counted here is twice what
  // LAPACK's functions of the same names take; the backend allocates so much, and more only where the library
  // must have it.
  std::size_t factor_bytes(Shape batch) const override { return factor_parts(batch).total(); }

  // Bytes, each a multiple of 256.
  struct FactorParts {
    std::size_t answers = 0, signs = 0,
                factors = 0;                    // for the batch: what became of each; signs; reflections
    std::size_t copy = 0, left = 0, right = 0;  // for one matrix: transposed, and its U^T and V
    std::size_t library = 0;
    std::size_t total() const { return answers + signs + factors + copy + left + right + library; }
  };
  static FactorParts factor_parts(Shape batch);

 private:
  int multiprocessors_;
};

}  // namespace spectrain
