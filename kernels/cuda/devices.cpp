#include "kernels/cuda/devices.h"

#include <cuda_runtime_api.h>
#if SPECTRAIN_CUSOLVER
#include <cusolver_common.h>
#endif

#include <cstdio>
#include <iterator>
#include <string>

#include "kernels/cuda/architectures.h"
#include "kernels/cuda/library.h"
#include "kernels/cuda/plugin.h"
#include "kernels/error.h"

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

// Versions in the libraries' own ways: functions that exist in every version of them, so that headers
// are not needed to ask.
std::string dotted(long long version) {
  return std::to_string(version / 10000) + "." + std::to_string(version % 10000 / 100) + "." +
         std::to_string(version % 100);
}
std::string cublaslt_version(const Library& library) {
  return dotted(static_cast<long long>(library.function<std::size_t (*)()>("cublasLtGetVersion")()));
}
std::string cudnn_version(const Library& library) {
  return dotted(static_cast<long long>(library.function<std::size_t (*)()>("cudnnGetVersion")()));
}
std::string nccl_version(const Library& library) {
  int version = 0;
  library.function<int (*)(int*)>("ncclGetVersion")(&version);
  return dotted(version);
}

std::string cusolver_version(const Library& library) {
  const auto property = library.function<int (*)(int, int*)>("cusolverGetProperty");
  int parts[3] = {};  // major, minor, patch
  for (int i = 0; i < 3; ++i) property(i, &parts[i]);
  return std::to_string(parts[0]) + "." + std::to_string(parts[1]) + "." + std::to_string(parts[2]);
}

struct KnownLibrary {
  const char* name;
  const char* soname;
  std::string (*version)(const Library& library);
  const char* not_built;  // why this build does not use it although it may be there; null: it does
  const char* without;
};

#define SPECTRAIN_TEXT_OF(x) #x
#define SPECTRAIN_TEXT(x) SPECTRAIN_TEXT_OF(x)
#if SPECTRAIN_CUSOLVER
constexpr const char* kCusolver = "libcusolver.so." SPECTRAIN_TEXT(CUSOLVER_VER_MAJOR);
#else
constexpr const char* kCusolver = "libcusolver.so";
#endif
constexpr KnownLibrary kLibraries[] = {
    {"cuBLASLt", "libcublasLt.so." SPECTRAIN_TEXT(SPECTRAIN_CUDA_MAJOR), cublaslt_version, nullptr,
     "without it nothing can be computed on a GPU"},
    {"cuDNN", "libcudnn.so.9", cudnn_version,
     SPECTRAIN_CUDNN ? nullptr : "this build was made without its headers",
     "attention is computed by the program's own kernels, and convolutions as matrix products"},
    {"cuSOLVER", kCusolver, cusolver_version,
     SPECTRAIN_CUSOLVER ? nullptr : "this build was made without its header",
     "optimizers' factorisations are computed on the CPU"},
    {"NCCL", "libnccl.so.2", nccl_version,
     SPECTRAIN_NCCL ? nullptr : "this build was made without its header",
     "several GPUs cannot work together"},
};

void describe(const KnownLibrary& known, CudaPluginLibrary& described) {
  described = {};
  say(described.name, "%s", known.name);
  say(described.without, "%s", known.without);
  const Library library = Library::open(known.name, known.soname);
  if (!library) {
    say(described.problem, "%s", library.why_not().c_str());
    return;
  }
  say(described.path, "%s", library.path().c_str());
  if (known.not_built != nullptr) {
    say(described.problem, "%s", known.not_built);
    return;
  }
  try {
    say(described.version, "%s", known.version(library).c_str());
  } catch (const Error& e) {
    say(described.problem, "%s", e.what());
  }
}

}  // namespace

std::int32_t list_cuda_libraries(CudaPluginLibrary* libraries, std::int32_t capacity) {
  std::int32_t i = 0;
  for (const KnownLibrary& known : kLibraries) {
    if (i < capacity) describe(known, libraries[i]);
    ++i;
  }
  return i;
}

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
