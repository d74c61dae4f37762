#include "kernels/cuda_plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "fmt/format.h"
#include "kernels/cuda/plugin.h"

namespace spectrain {
namespace {

constexpr const char* kPluginFile = "libspectrain_cuda.so";

// The plug-in at `path`, or nullptr and the reason.
const CudaPlugin* load(const std::string& path, std::string& reason) {
  if (access(path.c_str(), F_OK) != 0) {
    reason = fmt::format("this build has no CUDA part ({} is not beside the program)", kPluginFile);
    return nullptr;
  }
  // All symbols now, so that a missing library is found here and not in the middle of a run; local, so that
  // the libraries it brings do not take part in the program's own symbols.
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    reason = fmt::format("the CUDA part could not be loaded: {}", dlerror());
    return nullptr;
  }
  // From here on it stays loaded, also where it is refused: code that registered itself for the end of the
  // process must still be there then.
  const auto entry = reinterpret_cast<CudaPluginEntry>(dlsym(library, kCudaPluginEntry));
  const CudaPlugin* const plugin = entry != nullptr ? entry() : nullptr;
  if (plugin == nullptr) {
    reason = fmt::format("the CUDA part could not be loaded: {} is not a part of this program", path);
    return nullptr;
  }
  if (std::strcmp(plugin->interface, SPECTRAIN_INTERFACE) != 0) {
    reason = fmt::format(
        "the CUDA part could not be loaded: {} belongs to another version of the program; build both "
        "together",
        path);
    return nullptr;
  }
  return plugin;
}

CudaDevice device_of(const CudaPluginDevice& d) {
  return {d.index, d.name, d.major, d.minor, d.multiprocessors, d.memory, d.problem};
}

}  // namespace

std::string cuda_plugin_path() {
  // Not the loader's search path: a plug-in of another build may lie there.
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? std::string() : (program.parent_path() / kPluginFile).string();
}

CudaListing list_cuda_devices(const std::string& path) {
  CudaListing listing;
  const CudaPlugin* const plugin = load(path, listing.reason);
  if (plugin == nullptr) return listing;
  CudaPluginSystem system{};
  std::vector<CudaPluginDevice> devices(16);
  std::int32_t count = 0;
  for (;;) {
    count = plugin->list_devices(&system, devices.data(), static_cast<std::int32_t>(devices.size()));
    if (count <= static_cast<std::int32_t>(devices.size())) break;
    devices.resize(static_cast<std::size_t>(count));
  }
  for (std::int32_t i = 0; i < count; ++i)
    listing.devices.push_back(device_of(devices[static_cast<std::size_t>(i)]));
  listing.reason = system.reason;
  listing.runtime_version = system.runtime_version;
  listing.driver_version = system.driver_version;
  listing.architectures = system.architectures;
  return listing;
}

std::vector<CudaLibrary> list_cuda_libraries(const std::string& path) {
  std::string reason;
  const CudaPlugin* const plugin = load(path, reason);
  if (plugin == nullptr || plugin->list_libraries == nullptr) return {};
  std::vector<CudaPluginLibrary> found(8);
  const std::int32_t count = plugin->list_libraries(found.data(), static_cast<std::int32_t>(found.size()));
  found.resize(std::min(found.size(), static_cast<std::size_t>(count)));
  std::vector<CudaLibrary> libraries;
  for (const CudaPluginLibrary& l : found)
    libraries.push_back({l.name, l.version, l.path, l.problem, l.without});
  return libraries;
}

const char* cuda_plugin_interface() { return SPECTRAIN_INTERFACE; }

std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options, std::string& reason,
                                           const std::string& path) {
  // What is missing on this machine is said best by the listing.
  const CudaListing listing = list_cuda_devices(path);
  reason = listing.reason;
  if (!reason.empty()) return nullptr;
  const auto device = static_cast<std::size_t>(options.device);
  if (device >= listing.devices.size()) {
    reason = fmt::format("there is no GPU {}: this process sees {}", options.device, listing.devices.size());
    return nullptr;
  }
  if (!listing.devices[device].problem.empty()) {
    reason =
        fmt::format("{} cannot be used: {}", listing.devices[device].name, listing.devices[device].problem);
    return nullptr;
  }
  const CudaPlugin* const plugin = load(path, reason);
  if (plugin == nullptr) return nullptr;
  char text[512] = "";
  std::unique_ptr<Backend> backend(plugin->make_backend(&options, text, sizeof text));
  if (!backend) reason = text;
  return backend;
}

std::unique_ptr<Collectives> make_cuda_collectives(Backend& backend, const RankPlace& place,
                                                   const std::function<void()>& meanwhile,
                                                   const std::string& path) {
  std::string reason;
  const CudaPlugin* const plugin = load(path, reason);
  if (plugin == nullptr) throw Error(reason);
  return std::unique_ptr<Collectives>(plugin->make_collectives(&backend, &place, &meanwhile));
}

}  // namespace spectrain
