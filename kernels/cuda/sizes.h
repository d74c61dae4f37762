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
  std::size_t working_bytes() const override { return kProductWorkspace; }
  std::int64_t matrices_at_once(Shape matrix) const override;

 private:
  int multiprocessors_;
};

}  // namespace spectrain
