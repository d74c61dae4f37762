#include <cstdio>

#include "fmt/format.h"
#include "kernels/backend.h"
#include "kernels/cuda_plugin.h"
#include "train/commands.h"

namespace spectrain {
namespace {

std::string version(int v) { return fmt::format("{}.{}", v / 1000, v % 1000 / 10); }

void print_device(const CudaDevice& d) {
  fmt::print("cuda  {}: {}, compute capability {}.{}, {} SMs, {:.1f} GiB\n", d.index, d.name, d.major,
             d.minor, d.multiprocessors, static_cast<double>(d.memory) / (1024.0 * 1024 * 1024));
  if (!d.problem.empty()) fmt::print("      not usable: {}\n", d.problem);
}

}  // namespace

int run_devices() {
  fmt::print("cpu   {}\n", make_cpu_backend()->description());
  const CudaListing cuda = list_cuda_devices();
  if (cuda.devices.empty()) {
    fmt::print("cuda  none: {}\n", cuda.reason);
    return 0;
  }
  for (const CudaDevice& device : cuda.devices) print_device(device);
  fmt::print("      driver for CUDA {}, runtime {}, code for {}; this version trains on the CPU only\n",
             version(cuda.driver_version), version(cuda.runtime_version), cuda.architectures);
  return 0;
}

}  // namespace spectrain
