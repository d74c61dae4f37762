#include "kernels/cuda/cudnn_plan.h"

#include <algorithm>
#include <array>

namespace spectrain {
namespace {

constexpr std::int64_t kProposals = 16;

CudnnDescriptor engine_of(const Cudnn& cudnn, const CudnnDescriptor& configuration) {
  CudnnDescriptor engine(cudnn, CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  cudnnBackendDescriptor_t raw = engine.get();
  std::int64_t count = 0;
  cudnn.check(cudnn.get_attribute(configuration.get(), CUDNN_ATTR_ENGINECFG_ENGINE,
                                  CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &raw),
              "asking for an engine");
  return engine;
}

bool marked_nondeterministic(const Cudnn& cudnn, const CudnnDescriptor& configuration) {
  const CudnnDescriptor engine = engine_of(cudnn, configuration);
  std::array<cudnnBackendNumericalNote_t, CUDNN_NUMERICAL_NOTE_TYPE_COUNT> notes{};
  std::int64_t count = 0;
  cudnn.check(cudnn.get_attribute(engine.get(), CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                  static_cast<std::int64_t>(notes.size()), &count, notes.data()),
              "asking for an engine's notes");
  const auto end = notes.begin() + std::min<std::int64_t>(count, static_cast<std::int64_t>(notes.size()));
  return std::find(notes.begin(), end, CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC) != end;
}

}  // namespace

CudnnDescriptor device_properties(const Cudnn& cudnn, const std::string& json) {
  CudnnDescriptor properties(cudnn, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                 static_cast<std::int64_t>(json.size()), json.data());
  properties.finalize("reading a device's properties");
  return properties;
}

std::vector<CudnnDescriptor> engine_configurations(const Cudnn& cudnn, const AttentionGraph& graph,
                                                   const CudnnDevice& device, bool deterministic) {
  CudnnDescriptor heuristic(cudnn, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  const cudnnBackendHeurMode_t mode = CUDNN_HEUR_MODE_A;
  if (device.properties != nullptr) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device.properties);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph.descriptor())
      .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode)
      .finalize("looking for kernels");

  std::vector<CudnnDescriptor> configurations;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = 0; i < kProposals; ++i) {
    configurations.emplace_back(cudnn, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    raw.push_back(configurations.back().get());
  }
  std::int64_t count = 0;
  cudnn.check(cudnn.get_attribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                  CUDNN_TYPE_BACKEND_DESCRIPTOR, kProposals, &count, raw.data()),
              "looking for kernels");
  configurations.erase(configurations.begin() + std::min(count, kProposals), configurations.end());
  if (deterministic)
    std::erase_if(configurations, [&](const auto& c) { return marked_nondeterministic(cudnn, c); });
  return configurations;
}

CudnnDescriptor first_plan(const Cudnn& cudnn, const std::vector<CudnnDescriptor>& configurations,
                           const CudnnDevice& device) {
  if (configurations.empty())
    throw CudnnError("cuDNN " + cudnn.version_text() + " has no kernel for this attention on this device",
                     CUDNN_STATUS_NOT_SUPPORTED);
  for (std::size_t i = 0;; ++i) {
    try {
      CudnnDescriptor plan(cudnn, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configurations[i]);
      if (device.properties != nullptr)
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *device.properties);
      else
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &device.handle);
      plan.finalize("making code for an attention");
      return plan;
    } catch (const CudnnError&) {
      if (i + 1 == configurations.size()) throw;
    }
  }
}

std::int64_t engine_number(const Cudnn& cudnn, const CudnnDescriptor& configuration) {
  const CudnnDescriptor engine = engine_of(cudnn, configuration);
  std::int64_t number = -1, count = 0;
  cudnn.check(
      cudnn.get_attribute(engine.get(), CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1, &count, &number),
      "asking for an engine's number");
  return number;
}

AttentionPlan::AttentionPlan(std::shared_ptr<const Cudnn> cudnn, AttentionPass pass, const HeadLayout& layout,
                             const CudnnDevice& device)
    : cudnn_(std::move(cudnn)),
      graph_(cudnn_, pass, layout, device.handle),
      configurations_(engine_configurations(*cudnn_, graph_, device, pass != AttentionPass::backward_atomic)),
      plan_(first_plan(*cudnn_, configurations_, device)) {
  std::int64_t count = 0;
  cudnn_->check(cudnn_->get_attribute(plan_.get(), CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64,
                                      1, &count, &workspace_bytes_),
                "asking for the size of a workspace");
}

void AttentionPlan::run(cudnnHandle_t handle, std::span<const std::pair<AttentionTensor, void*>> bindings,
                        void* workspace) const {
  std::vector<std::int64_t> names;
  std::vector<void*> pointers;
  for (const auto& [name, pointer] : bindings) {
    names.push_back(static_cast<std::int64_t>(name));
    pointers.push_back(pointer);
  }
  CudnnDescriptor pack(*cudnn_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, std::span<const std::int64_t>(names))
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
           static_cast<std::int64_t>(pointers.size()), pointers.data())
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace)
      .finalize("binding an attention's tensors");
  cudnn_->check(cudnn_->execute(handle, plan_.get(), pack.get()), "an attention");
}

}  // namespace spectrain
