#include "kernels/cuda/devices.h"

#include <cuda_runtime_api.h>

#include <cstdio>

#include "kernels/cuda/architectures.h"
#include "kernels/cuda/plugin.h"

namespace spectrain {
namespace {

template <std::size_t N, class... Values>
void say(char (&text)[N], const char* format, Values... values) {
  std::snprintf(text, N, format, values...);
}

// Why there is no device although a driver answered. Without a driver the runtime says the same as with one
// that is too old (cudaErrorInsufficientDriver), so the caller has looked at the driver's version first.
void say_why_none(CudaPluginSystem& system, cudaError_t status) {
  const auto version = [](int v, char(&text)[32]) { say(text, "%d.%d", v / 1000, v % 1000 / 10); };
  char driver[32], runtime[32];
  version(system.driver_version, driver);
  version(system.runtime_version, runtime);
  if (status == cudaErrorInsufficientDriver)
    say(system.reason,
        "the NVIDIA driver runs CUDA up to %s and this build is made with %s; a newer driver helps", driver,
        runtime);
  else if (status == cudaErrorNoDevice || status == cudaSuccess)
    say(system.reason,
        "the NVIDIA driver (CUDA %s) shows no GPU to this process (an empty CUDA_VISIBLE_DEVICES hides them "
        "all)",
        driver);
  else
    say(system.reason, "the CUDA runtime failed: %s (%s)", cudaGetErrorString(status),
        cudaGetErrorName(status));
}

void describe(int index, CudaPluginDevice& device) {
  device = {};
  device.index = index;
  cudaDeviceProp properties{};
  const cudaError_t status = cudaGetDeviceProperties(&properties, index);
  if (status != cudaSuccess) {
    cudaGetLastError();
    say(device.name, "unknown GPU");
    say(device.problem, "the CUDA runtime failed: %s (%s)", cudaGetErrorString(status),
        cudaGetErrorName(status));
    return;
  }
  say(device.name, "%s", properties.name);
  device.major = properties.major;
  device.minor = properties.minor;
  device.multiprocessors = properties.multiProcessorCount;
  device.memory = properties.totalGlobalMem;
  if (!has_cuda_code(SPECTRAIN_CUDA_CODE, device.major, device.minor))
    say(device.problem, "this build has no code for it; -DSPECTRAIN_CUDA_ARCHITECTURES=%d%d makes some",
        device.major, device.minor);
}

}  // namespace

std::int32_t list_cuda_devices(CudaPluginSystem* system, CudaPluginDevice* devices, std::int32_t capacity) {
  *system = {};
  say(system->architectures, "%s", SPECTRAIN_CUDA_CODE);
  int runtime = 0, driver = 0, count = 0;
  cudaRuntimeGetVersion(&runtime);
  system->runtime_version = runtime;
  // A driver that is not there is no error to this call: it succeeds with 0.
  cudaError_t status = cudaDriverGetVersion(&driver);
  system->driver_version = driver;
  if (status == cudaSuccess && driver == 0) {
    say(system->reason, "no NVIDIA driver was found (a container must be started with its GPUs)");
    return 0;
  }
  if (status == cudaSuccess) status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count <= 0) {
    cudaGetLastError();  // or the next call that asks for errors would get this one
    say_why_none(*system, status);
    return 0;
  }
  for (int i = 0; i < count && i < capacity; ++i) describe(i, devices[i]);
  return count;
}

}  // namespace spectrain
