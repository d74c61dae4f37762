#pragma once

#include <cuda_runtime.h>

#include <type_traits>

#include "kernels/cuda/cuda_error.h"

// Starting a kernel: launch(stream, {blocks, threads, shared}, kernel, arguments...). Every launch is
// checked. Only for .cu files.

namespace spectrain {

struct Grid {
  dim3 blocks, threads;
  std::size_t shared = 0;  // bytes of dynamic shared memory
};

// What a kernel takes is fixed by its own signature, not by how an argument happens to be spelled.
template <class... P>
void launch(cudaStream_t stream, const Grid& grid, void (*kernel)(P...),
            std::type_identity_t<P>... arguments) {
  // Beyond 48 KiB, its static shared memory included (8 KiB at most here), a kernel must ask.
  if (grid.shared > (40u << 10))
    check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(grid.shared)),
               "asking for shared memory");
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::launch(stream, grid.blocks, grid.threads, grid.shared, reinterpret_cast<const void*>(kernel),
                   [=] { kernel(arguments...); });
#else
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = grid.threads;
  config.dynamicSmemBytes = grid.shared;
  config.stream = stream;
  check_cuda(cudaLaunchKernelEx(&config, kernel, arguments...), "starting a kernel");
#endif
  check_cuda(cudaGetLastError(), "starting a kernel");
}

}  // namespace spectrain
