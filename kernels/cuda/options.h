#pragma once

#include <string>

namespace spectrain {

struct CudaOptions {
  int device = 0;  // the CUDA runtime's number
  // At most so many thread blocks in a launch whose kernel can loop; 0: as many as fill the device. Tests set
  // it so that kernels meet their loops on small tensors.
  int max_blocks = 0;
  // As if the device had no more than this compute capability (80: no kernels for Hopper); 0: as it is.
  int most_capability = 0;
  bool cudnn = true;       // attention and convolutions through cuDNN where it has kernels for the shape
  bool cusolver = true;    // factorisations through cuSOLVER where it is found
  std::string plan_cache;  // a file that keeps the algorithms chosen for matrix products; empty: none is kept
};

}  // namespace spectrain
