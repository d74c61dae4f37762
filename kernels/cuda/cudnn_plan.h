#pragma once

#include <array>
#include <cstdint>
#include <limits>
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

// Which kernels are wanted for a graph.
struct CudnnWish {
  std::string what;                                  // it computes: "an attention"; for messages
  std::vector<cudnnBackendNumericalNote_t> without;  // a mark that none of them may have
  bool slow_ones = false;                            // after the fast ones also those that take most shapes
  std::int64_t most_workspace = std::numeric_limits<std::int64_t>::max();  // bytes; for first_plan
};

// What cuDNN proposes for a graph, best first. Empty: nothing.
std::vector<CudnnDescriptor> engine_configurations(const Cudnn& cudnn, const CudnnDescriptor& graph,
                                                   const CudnnDevice& device, const CudnnWish& wish);
std::int64_t engine_number(const Cudnn& cudnn, const CudnnDescriptor& configuration);
std::vector<cudnnBackendNumericalNote_t> engine_notes(const Cudnn& cudnn,
                                                      const CudnnDescriptor& configuration);
std::int64_t configuration_workspace(const Cudnn& cudnn, const CudnnDescriptor& configuration);
std::int64_t plan_workspace(const Cudnn& cudnn, const CudnnDescriptor& plan);

// The first of them that becomes a plan: the proposals are guesses from shapes, and an engine looks closely
// (and compiles, which takes about half a second) only now. Throws CudnnError where none does.
CudnnDescriptor first_plan(const Cudnn& cudnn, const std::vector<CudnnDescriptor>& configurations,
                           const CudnnDevice& device, const CudnnWish& wish);

// A graph that can be run: the first proposal that cuDNN can make code for.
class CudnnPlan {
 public:
  // Throws CudnnError where there is none.
  CudnnPlan(std::shared_ptr<const Cudnn> cudnn, CudnnGraph graph, const CudnnDevice& device, CudnnWish wish);

  std::int64_t workspace_bytes() const { return workspace_bytes_; }
  // In the handle's stream; pointers of scalars are the host's and are read before this returns. Name: what
  // the graph calls its tensors.
  template <class Name, std::size_t N>
  void run(cudnnHandle_t handle, const std::array<std::pair<Name, void*>, N>& bindings,
           void* workspace) const {
    std::array<std::int64_t, N> names;
    std::array<void*, N> pointers;
    for (std::size_t i = 0; i < N; ++i) {
      names[i] = static_cast<std::int64_t>(bindings[i].first);
      pointers[i] = bindings[i].second;
    }
    run(handle, names, pointers, workspace);
  }

 private:
  void run(cudnnHandle_t handle, std::span<const std::int64_t> names, std::span<void* const> pointers,
           void* workspace) const;

  std::shared_ptr<const Cudnn> cudnn_;
  CudnnWish wish_;
  CudnnGraph graph_;
  std::vector<CudnnDescriptor> configurations_;
  CudnnDescriptor plan_;
  std::int64_t workspace_bytes_ = 0;
};

}  // namespace spectrain
