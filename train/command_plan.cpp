#include <cstdio>

#include "fmt/format.h"
#include "kernels/cuda/sizes.h"
#include "kernels/cuda_plugin.h"
#include "kernels/error.h"
#include "train/command_plan_fits.h"
#include "train/command_plan_ranks.h"
#include "train/command_plan_tables.h"
#include "train/commands.h"
#include "train/config.h"
#include "train/session.h"

namespace spectrain {

namespace {

Fabric fabric_of(const PlanRequest& request) {
  Fabric fabric;
  if (request.tflops > 0) fabric.tflops = request.tflops;
  if (request.link > 0) fabric.link = request.link;
  if (request.node_link > 0) fabric.node_link = request.node_link;
  return fabric;
}

// The report for a GPU needs none: without one it is for an H100 and for the usual sizes of memory.
std::string gpu_report(const RunConfig& config, const CudaListing& cuda) {
  const bool there = !cuda.devices.empty();
  const CudaSizes sizes(there ? cuda.devices.front().multiprocessors : CudaSizes::kH100Multiprocessors);
  std::vector<double> memories = {24e9, 40e9, 80e9, 141e9};
  if (there) memories = {static_cast<double>(cuda.devices.front().memory)};
  return plan_report(config, sizes) + fits_report(config, sizes, memories);
}

std::string report(const RunConfig& config) {
  const CudaListing cuda = list_cuda_devices();
  const bool gpu = config.compute.device == Device::automatic && !cuda.devices.empty();
  if (gpu || config.compute.device == Device::cuda) return gpu_report(config, cuda);
  // Asked for sizes, holds no tensor.
  return plan_report(config, *make_backend(config.compute));
}

}  // namespace

int run_plan(const PlanRequest& request) {
  std::string text;
  if (request.keys) text = key_reference();
  if (!request.config.empty()) {
    const RunConfig config = load_config(request.config, request.overrides, ConfigUse::model);
    if (request.json) {
      text += ranks_json(config, request.ranks);
    } else {
      text += report(config);
      if (request.ranks > 0) text += ranks_report(config, request.ranks, fabric_of(request));
    }
    if (!request.json) text += "\nEffective configuration\n\n" + to_yaml(config, true);
  }
  std::fwrite(text.data(), 1, text.size(), stdout);
  return 0;
}

}  // namespace spectrain
