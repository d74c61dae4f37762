#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::bias_gradient(const Tensor&, const Tensor&, bool) {
  throw std::logic_error("cuda: bias_gradient is missing");
}

}  // namespace spectrain
