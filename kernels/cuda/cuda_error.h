#pragma once

#include <cuda_runtime_api.h>

namespace spectrain {

// Throws Error "the GPU failed in <what>: <text> (<name>)" unless status is cudaSuccess.
void check_cuda(cudaError_t status, const char* what);

}  // namespace spectrain
