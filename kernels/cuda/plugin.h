#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <type_traits>

// What the program and the plug-in libspectrain_cuda.so know of each other. Both belong to one build: the
// plug-in hands over a Backend, a C++ class. So the first thing looked at is whether both were made from the
// same headers. The program finds the plug-in beside itself and loads it when CUDA is asked for
// (kernels/cuda_plugin.h).

namespace spectrain {

class Backend;
class Collectives;
struct CudaOptions;
struct RankPlace;

// Texts are UTF-8, end with a zero and are cut where they would not fit.
struct CudaPluginDevice {
  std::int32_t index;            // the CUDA runtime's, after CUDA_VISIBLE_DEVICES
  std::int32_t major, minor;     // compute capability
  std::int32_t multiprocessors;  // SMs
  std::uint64_t memory;          // bytes in all, used and free
  char name[256];                // "NVIDIA H100 80GB HBM3"
  char problem[256];             // why it cannot be used: one clause; empty: it can
};

struct CudaPluginSystem {
  std::int32_t runtime_version;  // of the CUDA runtime inside the plug-in, 1000 major + 10 minor
  std::int32_t driver_version;   // the newest CUDA the driver can run, likewise; 0: no driver
  char architectures[256];       // the plug-in has code for these: "90a-real,80-real,90-virtual"
  char reason[512];              // why there is no device: one clause; empty where there is one
};

// A library of NVIDIA's that the plug-in opens when it is needed.
struct CudaPluginLibrary {
  char name[32];      // "cuDNN"
  char version[32];   // "9.19.0"; empty where it cannot be used
  char path[512];     // of the file that was opened; empty where none was
  char problem[768];  // why it cannot be used: one clause; empty where it can
  char without[128];  // what that means: one clause
};

struct CudaPlugin {
  const char*
      interface;  // a hash of the headers both sides share; stays the first member, whatever else changes
  // Fills `system` and the first `capacity` of `devices`; returns how many devices there are, which may be
  // more. Needs no driver and makes no context on a device.
  std::int32_t (*list_devices)(CudaPluginSystem* system, CudaPluginDevice* devices, std::int32_t capacity);
  // Opens them: some hundred megabytes are mapped, no device is touched. Fills the first `capacity`, returns
  // how many there are.
  std::int32_t (*list_libraries)(CudaPluginLibrary* libraries, std::int32_t capacity);
  // A backend on one device, owned by the caller; its functions throw Error. Null: `reason` says why not.
  Backend* (*make_backend)(const CudaOptions* options, char* reason, std::size_t capacity);
  // Collectives of ranks with one such backend each, owned by the caller; `meanwhile` is called while they
  // come together. Throws Error, PeerFailure among them.
  Collectives* (*make_collectives)(Backend* backend, const RankPlace* place,
                                   const std::function<void()>* meanwhile);
};

static_assert(std::is_trivial_v<CudaPluginDevice> && std::is_standard_layout_v<CudaPluginDevice>);
static_assert(std::is_trivial_v<CudaPluginSystem> && std::is_standard_layout_v<CudaPluginSystem>);
static_assert(std::is_trivial_v<CudaPluginLibrary> && std::is_standard_layout_v<CudaPluginLibrary>);
static_assert(std::is_trivial_v<CudaPlugin> && std::is_standard_layout_v<CudaPlugin>);

// The one function the plug-in exports, and its name; what it returns lives as long as the process.
using CudaPluginEntry = const CudaPlugin* (*)();
constexpr const char* kCudaPluginEntry = "spectrain_cuda_plugin";

}  // namespace spectrain

extern "C" __attribute__((visibility("default"))) const spectrain::CudaPlugin* spectrain_cuda_plugin();
