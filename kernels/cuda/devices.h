#pragma once

#include "kernels/cuda/plugin.h"

namespace spectrain {

// CudaPlugin::list_devices.
std::int32_t list_cuda_devices(CudaPluginSystem* system, CudaPluginDevice* devices, std::int32_t capacity);

// CudaPlugin::list_libraries.
std::int32_t list_cuda_libraries(CudaPluginLibrary* libraries, std::int32_t capacity);

}  // namespace spectrain
