#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/collectives.h"
#include "kernels/cuda/options.h"

// The program's side of the CUDA plug-in (kernels/cuda/plugin.h). Whatever is missing (the plug-in, a library
// it needs, the driver, a GPU) is a reason in words, never an exception and never the end of the process.

namespace spectrain {

struct CudaDevice {
  int index = 0;             // the CUDA runtime's, after CUDA_VISIBLE_DEVICES
  std::string name;          // "NVIDIA H100 80GB HBM3"
  int major = 0, minor = 0;  // compute capability
  int multiprocessors = 0;
  std::uint64_t memory = 0;  // bytes
  std::string problem;       // why this one cannot be used, a clause without a full stop; empty: it can
};

// A library of NVIDIA's that the plug-in opens when it is needed.
struct CudaLibrary {
  std::string name;     // "cuDNN"
  std::string version;  // "9.19.0"; empty where it cannot be used
  std::string path;     // of the file that was opened; empty where none was
  std::string problem;  // why it cannot be used, a clause without a full stop; empty: it can
  std::string without;  // what that means, likewise
};

struct CudaListing {
  std::vector<CudaDevice> devices;
  std::string reason;       // why there is no device, a clause without a full stop; empty where there is one
  int runtime_version = 0;  // 1000 major + 10 minor; 0: the plug-in was not loaded
  int driver_version = 0;   // likewise; 0: no driver, or the plug-in was not loaded
  std::string architectures;  // what the plug-in has code for: "90a-real,80-real,90-virtual"
};

// libspectrain_cuda.so in the directory of the running program, as an absolute path; empty where the system
// does not tell that directory.
std::string cuda_plugin_path();

// The devices the plug-in at `path` sees. The first call for a path loads it; it is never unloaded.
CudaListing list_cuda_devices(const std::string& path = cuda_plugin_path());

// The libraries that the plug-in at `path` would use, found or not; empty where the plug-in cannot be loaded.
// Opens them all, which takes a moment.
std::vector<CudaLibrary> list_cuda_libraries(const std::string& path = cuda_plugin_path());

// What a plug-in must say of itself to belong to this program.
const char* cuda_plugin_interface();

// The CUDA backend on a device; null, and a clause without a full stop, where there is none or it cannot be
// used.
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options, std::string& reason,
                                           const std::string& path = cuda_plugin_path());

// Collectives over NCCL, of ranks with one backend of make_cuda_backend each (the same `path`), which must
// outlive them. The ranks meet at place.address and place.port; `meanwhile` is called while they do and may
// throw. Throws Error, where NCCL is missing too, and PeerFailure.
std::unique_ptr<Collectives> make_cuda_collectives(Backend& backend, const RankPlace& place,
                                                   const std::function<void()>& meanwhile = {},
                                                   const std::string& path = cuda_plugin_path());

}  // namespace spectrain
