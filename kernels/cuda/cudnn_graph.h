#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "kernels/cuda/cudnn_descriptor.h"

namespace spectrain {

using CudnnDims = std::array<std::int64_t, 4>;

// Arithmetic as cuDNN wants it described, operation by operation: cudnn_attention.h and cudnn_convolution.h
// write such graphs, cudnn_plan.h finds kernels for them. All functions throw CudnnError where cuDNN refuses
// the description.
class CudnnGraph {
 public:
  explicit CudnnGraph(std::shared_ptr<const Cudnn> cudnn);

  // A tensor under the number that its memory is bound to when the graph runs. A virtual one is a name for
  // values that never need be in memory; one by value is a scalar in the host's.
  enum class Place : std::uint8_t { memory, nowhere, by_value };
  cudnnBackendDescriptor_t tensor(std::int64_t id, cudnnDataType_t type, const CudnnDims& dims,
                                  const CudnnDims& strides, Place place);
  CudnnDescriptor& add(cudnnBackendDescriptorType_t type);        // what operations refer to
  CudnnDescriptor& operation(cudnnBackendDescriptorType_t type);  // the next operation
  // All has been said. A handle is needed only to run it (null: for looking at it).
  void finish(cudnnHandle_t handle, const char* what);

  const CudnnDescriptor& descriptor() const { return graph_; }
  int operations() const { return static_cast<int>(operations_.size()); }

 private:
  std::shared_ptr<const Cudnn> cudnn_;
  std::deque<CudnnDescriptor> parts_;  // tensors and operations: the graph only refers to them
  std::vector<cudnnBackendDescriptor_t> operations_;
  CudnnDescriptor graph_;
};

}  // namespace spectrain
