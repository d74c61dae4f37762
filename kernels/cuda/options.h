#pragma once

#include <string>

namespace spectrain {

struct CudaOptions {
  int device = 0;  // the CUDA runtime's number
  // At most so many thread blocks in a launch whose kernel can loop; 0: as many as fill the device. Tests set
  // it so that kernels meet their loops on small tensors.
  int max_blocks = 0;
  bool cudnn = true;       // attention through cuDNN where it is found and has a kernel for the shape
  std::string plan_cache;  // a file that keeps the algorithms chosen for matrix products; empty: none is kept
};

}  // namespace spectrain
