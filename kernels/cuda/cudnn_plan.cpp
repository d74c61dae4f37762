#include "kernels/cuda/cudnn_plan.h"

#include <algorithm>

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

std::int64_t number(const Cudnn& cudnn, const CudnnDescriptor& from, cudnnBackendAttributeName_t name,
                    const char* what) {
  std::int64_t value = -1, count = 0;
  cudnn.check(cudnn.get_attribute(from.get(), name, CUDNN_TYPE_INT64, 1, &count, &value), what);
  return value;
}

void propose(const Cudnn& cudnn, const CudnnDescriptor& graph, const CudnnDevice& device,
             cudnnBackendHeurMode_t mode, std::vector<CudnnDescriptor>& configurations) {
  CudnnDescriptor heuristic(cudnn, CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  if (device.properties != nullptr) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device.properties);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph)
      .set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, 1, &mode)
      .finalize("looking for kernels");

  std::vector<CudnnDescriptor> proposals;
  std::vector<cudnnBackendDescriptor_t> raw;
  for (std::int64_t i = 0; i < kProposals; ++i) {
    proposals.emplace_back(cudnn, CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
    raw.push_back(proposals.back().get());
  }
  std::int64_t count = 0;
  cudnn.check(cudnn.get_attribute(heuristic.get(), CUDNN_ATTR_ENGINEHEUR_RESULTS,
                                  CUDNN_TYPE_BACKEND_DESCRIPTOR, kProposals, &count, raw.data()),
              "looking for kernels");
  proposals.erase(proposals.begin() + std::min(count, kProposals), proposals.end());
  for (CudnnDescriptor& c : proposals) configurations.push_back(std::move(c));
}

}  // namespace

CudnnDescriptor device_properties(const Cudnn& cudnn, const std::string& json) {
  CudnnDescriptor properties(cudnn, CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  properties.set(CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                 static_cast<std::int64_t>(json.size()), json.data());
  properties.finalize("reading a device's properties");
  return properties;
}

std::vector<cudnnBackendNumericalNote_t> engine_notes(const Cudnn& cudnn,
                                                      const CudnnDescriptor& configuration) {
  const CudnnDescriptor engine = engine_of(cudnn, configuration);
  std::vector<cudnnBackendNumericalNote_t> notes(CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  const auto most = static_cast<std::int64_t>(notes.size());
  std::int64_t count = 0;
  cudnn.check(cudnn.get_attribute(engine.get(), CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                  most, &count, notes.data()),
              "asking for an engine's notes");
  notes.resize(static_cast<std::size_t>(std::min(count, most)));
  return notes;
}

std::vector<CudnnDescriptor> engine_configurations(const Cudnn& cudnn, const CudnnDescriptor& graph,
                                                   const CudnnDevice& device, const CudnnWish& wish) {
  std::vector<CudnnDescriptor> configurations;
  propose(cudnn, graph, device, CUDNN_HEUR_MODE_A, configurations);
  if (wish.slow_ones) propose(cudnn, graph, device, CUDNN_HEUR_MODE_FALLBACK, configurations);
  if (!wish.without.empty())
    std::erase_if(configurations, [&](const CudnnDescriptor& c) {
      const auto notes = engine_notes(cudnn, c);
      return std::find_first_of(notes.begin(), notes.end(), wish.without.begin(), wish.without.end()) !=
             notes.end();
    });
  return configurations;
}

std::int64_t engine_number(const Cudnn& cudnn, const CudnnDescriptor& configuration) {
  return number(cudnn, engine_of(cudnn, configuration), CUDNN_ATTR_ENGINE_GLOBAL_INDEX,
                "asking for an engine's number");
}

std::int64_t configuration_workspace(const Cudnn& cudnn, const CudnnDescriptor& configuration) {
  return number(cudnn, configuration, CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE,
                "asking for the size of a workspace");
}

std::int64_t plan_workspace(const Cudnn& cudnn, const CudnnDescriptor& plan) {
  return number(cudnn, plan, CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, "asking for the size of a workspace");
}

CudnnDescriptor first_plan(const Cudnn& cudnn, const std::vector<CudnnDescriptor>& configurations,
                           const CudnnDevice& device, const CudnnWish& wish) {
  if (configurations.empty())
    throw CudnnError(
        "cuDNN " + cudnn.version_text() + " has no kernel for " + wish.what + " like this on this device",
        CUDNN_STATUS_NOT_SUPPORTED);
  for (std::size_t i = 0;; ++i) {
    try {
      CudnnDescriptor plan(cudnn, CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configurations[i]);
      if (device.properties != nullptr)
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_DEVICEPROP, *device.properties);
      else
        plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, 1, &device.handle);
      plan.finalize(("making code for " + wish.what).c_str());
      if (plan_workspace(cudnn, plan) > wish.most_workspace)
        throw CudnnError("cuDNN " + cudnn.version_text() + " asks for too much workspace for " + wish.what,
                         CUDNN_STATUS_NOT_SUPPORTED);
      return plan;
    } catch (const CudnnError&) {
      if (i + 1 == configurations.size()) throw;
    }
  }
}

CudnnPlan::CudnnPlan(std::shared_ptr<const Cudnn> cudnn, CudnnGraph graph, const CudnnDevice& device,
                     CudnnWish wish)
    : cudnn_(std::move(cudnn)),
      wish_(std::move(wish)),
      graph_(std::move(graph)),
      configurations_(engine_configurations(*cudnn_, graph_.descriptor(), device, wish_)),
      plan_(first_plan(*cudnn_, configurations_, device, wish_)),
      workspace_bytes_(plan_workspace(*cudnn_, plan_)) {}

void CudnnPlan::run(cudnnHandle_t handle, std::span<const std::int64_t> names,
                    std::span<void* const> pointers, void* workspace) const {
  CudnnDescriptor pack(*cudnn_, CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  pack.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, names)
      .set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR,
           static_cast<std::int64_t>(pointers.size()), pointers.data())
      .set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, 1, &workspace)
      .finalize("binding tensors");
  cudnn_->check(cudnn_->execute(handle, plan_.get(), pack.get()), wish_.what.c_str());
}

}  // namespace spectrain
