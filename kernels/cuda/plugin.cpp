#include "kernels/cuda/plugin.h"

#include <cstdio>
#include <exception>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/devices.h"
#include "kernels/cuda/nccl_make.h"

namespace spectrain {
namespace {

Backend* make_backend(const CudaOptions* options, char* reason, std::size_t capacity) {
  try {
    return new CudaBackend(*options);
  } catch (const std::exception& e) {
    std::snprintf(reason, capacity, "%s", e.what());
    return nullptr;
  }
}

Collectives* make_collectives(Backend* backend, const RankPlace* place,
                              const std::function<void()>* meanwhile) {
  return make_nccl_collectives(*backend, *place, *meanwhile).release();
}

}  // namespace
}  // namespace spectrain

const spectrain::CudaPlugin* spectrain_cuda_plugin() {
  static constexpr spectrain::CudaPlugin kPlugin = {SPECTRAIN_INTERFACE, spectrain::list_cuda_devices,
                                                    spectrain::list_cuda_libraries, spectrain::make_backend,
                                                    spectrain::make_collectives};
  return &kPlugin;
}
