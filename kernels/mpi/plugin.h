#pragma once

#include <cstdint>
#include <type_traits>

// What the program and the plug-in libspectrain_mpi.so know of each other: messages between ranks, nothing
// else. Plain data and C functions; no exception crosses it. All calls come from one thread, the one that
// called start().

namespace spectrain {

// Counts every change of what follows. Program and plug-in of different numbers refuse each other.
constexpr std::int32_t kMpiInterfaceVersion = 1;

struct MpiPluginPlace {
  std::int32_t rank, ranks;
  std::int32_t one_machine;  // 1: all ranks share this machine
  char library[256];         // "Open MPI v4.1.4"
};

struct MpiPlugin {
  std::int32_t interface_version;  // stays the first member, whatever else changes
  // 0: done; -1: not, and problem() says why. Waits until all ranks have started. Once per process.
  std::int32_t (*start)(MpiPluginPlace* place);
  // The number of a request, or -1. The memory must stay as it is until it has completed.
  std::int32_t (*send)(const void* data, std::uint64_t bytes, std::int32_t peer, std::int32_t tag);
  std::int32_t (*receive)(void* data, std::uint64_t bytes, std::int32_t peer, std::int32_t tag);
  // How many requests have completed just now (their numbers in `completed`, at most `capacity`), or -1.
  // Those numbers may be given out again afterwards.
  std::int32_t (*progress)(std::int32_t* completed, std::int32_t capacity);
  // Waits for all ranks to call it.
  void (*finish)();
  const char* (*problem)();
};

static_assert(std::is_trivial_v<MpiPluginPlace> && std::is_standard_layout_v<MpiPluginPlace>);
static_assert(std::is_trivial_v<MpiPlugin> && std::is_standard_layout_v<MpiPlugin>);

// The one function the plug-in exports, and its name; what it returns lives as long as the process.
using MpiPluginEntry = const MpiPlugin* (*)();
constexpr const char* kMpiPluginEntry = "spectrain_mpi_plugin";

}  // namespace spectrain

extern "C" __attribute__((visibility("default"))) const spectrain::MpiPlugin* spectrain_mpi_plugin();
