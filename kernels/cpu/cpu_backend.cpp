#include "kernels/cpu/cpu_backend.h"

#include "kernels/cpu/matrix_state.h"

#include <fmt/format.h>
#include <omp.h>

namespace spectrain {

CpuBackend::CpuBackend(const CpuOptions& options)
    : threads_(options.threads > 0 ? options.threads : omp_get_num_procs()), use_onednn_(options.use_onednn) {
  omp_set_num_threads(threads_);
}

CpuBackend::~CpuBackend() = default;

std::string CpuBackend::description() const { return fmt::format("CPU, {} threads", threads_); }

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace spectrain
