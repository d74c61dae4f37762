#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/cudnn_graph.h"

namespace spectrain {

// For which device a graph is looked at: that of a handle, or one that need not be there, from its properties
// as cuDNN writes them to JSON.
struct CudnnDevice {
  cudnnHandle_t handle = nullptr;
  const CudnnDescriptor* properties = nullptr;
};
CudnnDescriptor device_properties(const Cudnn& cudnn, const std::string& json);

// What cuDNN proposes for a graph, best first. Empty: nothing. Of backward passes that must give the same
// result each time only those are kept that are not marked as doing otherwise.
std::vector<CudnnDescriptor> engine_configurations(const Cudnn& cudnn, const AttentionGraph& graph,
                                                   const CudnnDevice& device, bool deterministic);
std::int64_t engine_number(const Cudnn& cudnn, const CudnnDescriptor& configuration);

// The first of them that becomes a plan: the proposals are guesses from shapes, and an engine looks closely
// (and compiles, which takes about half a second) only now. Throws CudnnError where none does.
CudnnDescriptor first_plan(const Cudnn& cudnn, const std::vector<CudnnDescriptor>& configurations,
                           const CudnnDevice& device);

// An attention that can be run: the first proposal that cuDNN can make code for.
class AttentionPlan {
 public:
  // Throws CudnnError where there is none.
  AttentionPlan(std::shared_ptr<const Cudnn> cudnn, AttentionPass pass, const HeadLayout& layout,
                const CudnnDevice& device);

  std::int64_t workspace_bytes() const { return workspace_bytes_; }
  // In the handle's stream; pointers of scalars are the host's and are read before this returns.
  void run(cudnnHandle_t handle, std::span<const std::pair<AttentionTensor, void*>> bindings,
           void* workspace) const;

 private:
  std::shared_ptr<const Cudnn> cudnn_;
  AttentionGraph graph_;
  std::vector<CudnnDescriptor> configurations_;
  CudnnDescriptor plan_;
  std::int64_t workspace_bytes_ = 0;
};

}  // namespace spectrain
