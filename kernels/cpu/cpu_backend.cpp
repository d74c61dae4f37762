#include "kernels/cpu/cpu_backend.h"

#include <fmt/format.h>
#include <omp.h>
#include <sched.h>

#include <fstream>
#include <thread>

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/matrix_state.h"
#include "kernels/host_factors.h"

#if SPECTRAIN_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif

namespace spectrain {
namespace {

// The cores this process may run on: a container or a batch system often grants fewer than the machine has,
// and more threads than cores make every parallel region as slow as its unluckiest thread.
int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) {
    const int cores = CPU_COUNT(&set);
    if (cores > 0) return cores;
  }
  const unsigned cores = std::thread::hardware_concurrency();
  return cores > 0 ? static_cast<int>(cores) : 1;
}

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const auto colon = line.find(':');
    const auto first = colon == std::string::npos ? colon : line.find_first_not_of(" \t", colon + 1);
    if (first != std::string::npos) return line.substr(first);
  }
  return "CPU";
}

}  // namespace

CpuBackend::CpuBackend(const CpuOptions& options)
    : threads_(options.threads > 0 ? options.threads : usable_cores()), use_onednn_(options.use_onednn) {
  omp_set_num_threads(threads_);
}

CpuBackend::~CpuBackend() = default;

std::string CpuBackend::description() const {
  std::string products = "own matrix products";
#if SPECTRAIN_ONEDNN
  if (use_onednn_) {
    const dnnl_version_t* v = dnnl_version();
    products = fmt::format("oneDNN {}.{}.{}", v->major, v->minor, v->patch);
  }
#endif
  return fmt::format("{}, {} {}, {}, {}", cpu_model(), threads_, threads_ == 1 ? "thread" : "threads",
                     name_of(cpu_isa()), products);
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace spectrain
