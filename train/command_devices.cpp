#include <cstdio>

#include "fmt/format.h"
#include "kernels/backend.h"
#include "kernels/cuda_plugin.h"
#include "kernels/gpu_peaks.h"
#include "train/commands.h"

namespace spectrain {
namespace {

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

std::string peaks(const std::string& name) {
  const auto p = gpu_peaks(name);
  return p ? fmt::format("data sheet {:.0f} TFLOP/s in bf16 and {:.2f} TB/s", p->bf16_flops / 1e12,
                         p->memory_bandwidth / 1e12)
           : "data sheet n/a";
}

void print_device(const CudaDevice& d) {
  fmt::print("cuda  {}: {}, compute capability {}.{}, {} SMs, {:.1f} GiB, {}\n", d.index, d.name, d.major,
             d.minor, d.multiprocessors, static_cast<double>(d.memory) / (1024.0 * 1024 * 1024),
             peaks(d.name));
  if (!d.problem.empty()) fmt::print("      not usable: {}\n", d.problem);
}

void print_library(const CudaLibrary& l) {
  if (l.problem.empty())
    fmt::print("      {} {}, {}\n", l.name, l.version, l.path);
  else
    fmt::print("      {} is not used: {}; {}\n", l.name, l.problem, l.without);
}

}  // namespace

int run_devices() {
  fmt::print("cpu   {}\n", make_cpu_backend()->description());
  const CudaListing cuda = list_cuda_devices();
  if (cuda.devices.empty()) fmt::print("cuda  none: {}\n", cuda.reason);
  for (const CudaDevice& device : cuda.devices) print_device(device);
  if (cuda.runtime_version == 0) return 0;  // no plug-in, and the reason has been said
  if (cuda.driver_version != 0) fmt::print("      driver for CUDA {}\n", version(cuda.driver_version));
  fmt::print("      runtime {}, code for {}\n", version(cuda.runtime_version), cuda.architectures);
  for (const CudaLibrary& library : list_cuda_libraries()) print_library(library);
  return 0;
}

}  // namespace spectrain
