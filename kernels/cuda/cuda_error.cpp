#include "kernels/cuda/cuda_error.h"

#include <fmt/format.h>

#include "kernels/error.h"

namespace spectrain {

void check_cuda(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // or the next call that asks would get this one
  throw Error(fmt::format("the GPU failed in {}: {} ({})", what, cudaGetErrorString(status),
                          cudaGetErrorName(status)));
}

}  // namespace spectrain
