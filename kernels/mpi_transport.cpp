#include "kernels/mpi_transport.h"

#include <dlfcn.h>
#include <unistd.h>

#include <vector>

#include "fmt/format.h"

namespace spectrain {
namespace {

constexpr const char* kPluginFile = "libspectrain_mpi.so";

class MpiTransport : public Transport {
 public:
  explicit MpiTransport(const MpiPlugin* plugin) : plugin_(plugin) {}

  std::string_view name() const override { return "mpi"; }

  Request begin_send(int peer, int tag, const void* data, std::size_t bytes) override {
    return begun(plugin_->send(data, bytes, peer, tag));
  }
  Request begin_receive(int peer, int tag, void* data, std::size_t bytes) override {
    return begun(plugin_->receive(data, bytes, peer, tag));
  }
  bool done(Request request) override {
    if (!over_[static_cast<std::size_t>(request)]) return false;
    free_.push_back(request);
    return true;
  }
  bool progress() override {
    if (open_ == 0) return false;
    const std::int32_t count =
        plugin_->progress(completed_.data(), static_cast<std::int32_t>(completed_.size()));
    if (count < 0) throw Error(plugin_->problem());
    for (std::int32_t i = 0; i < count; ++i) {
      const auto number = static_cast<std::size_t>(completed_[static_cast<std::size_t>(i)]);
      over_[static_cast<std::size_t>(request_of_[number])] = true;
    }
    open_ -= count;
    return count > 0;
  }
  // MPI does not tell; the ranks' connections to rank 0 do.
  bool lost(int) const override { return false; }
  bool add_to(std::vector<pollfd>&) const override { return false; }
  void finish() override { plugin_->finish(); }

 private:
  // The plug-in's number may come again as soon as its request is over, the caller's only after done().
  Request begun(std::int32_t number) {
    if (number < 0) throw Error(plugin_->problem());
    const auto n = static_cast<std::size_t>(number);
    if (n >= request_of_.size()) {
      request_of_.resize(n + 1);
      completed_.resize(n + 1);
    }
    Request request;
    if (free_.empty()) {
      request = static_cast<Request>(over_.size());
      over_.push_back(false);
      free_.reserve(over_.size());
    } else {
      request = free_.back();
      free_.pop_back();
      over_[static_cast<std::size_t>(request)] = false;
    }
    request_of_[n] = request;
    ++open_;
    return request;
  }

  const MpiPlugin* plugin_;
  std::int32_t open_ = 0;
  std::vector<Request> request_of_;
  std::vector<std::int32_t> completed_;
  std::vector<char> over_;
  std::vector<Request> free_;
};

}  // namespace

std::string mpi_plugin_path() {
  // Not the loader's search path: a plug-in of another build may lie there.
  std::string program(4096, '\0');
  const ssize_t n = readlink("/proc/self/exe", program.data(), program.size());
  if (n <= 0) return {};
  program.resize(static_cast<std::size_t>(n));
  return program.substr(0, program.rfind('/') + 1) + kPluginFile;
}

const MpiPlugin* load_mpi_plugin(const std::string& path) {
  if (access(path.c_str(), F_OK) != 0)
    throw Error(fmt::format(
        "this build has no MPI part ({} is not beside the program): install libopenmpi-dev and build "
        "again, or start the ranks without MPI",
        kPluginFile));
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    throw Error(fmt::format(
        "the MPI part could not be loaded: {}; is the MPI library it was built with installed?", dlerror()));
  const auto entry = reinterpret_cast<MpiPluginEntry>(dlsym(library, kMpiPluginEntry));
  const MpiPlugin* const plugin = entry != nullptr ? entry() : nullptr;
  if (plugin == nullptr)
    throw Error(fmt::format("the MPI part could not be loaded: {} is not a part of this program", path));
  if (plugin->interface_version != kMpiInterfaceVersion)
    throw Error(fmt::format(
        "the MPI part could not be loaded: {} belongs to another version of the program (interface "
        "{}, not {}); build both together",
        path, plugin->interface_version, kMpiInterfaceVersion));
  return plugin;
}

std::unique_ptr<Transport> make_mpi_transport(const MpiPlugin* plugin, MpiPluginPlace& place) {
  if (plugin->start(&place) != 0) throw Error(fmt::format("MPI did not start: {}", plugin->problem()));
  return std::make_unique<MpiTransport>(plugin);
}

}  // namespace spectrain
