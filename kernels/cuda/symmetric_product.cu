#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::symmetric_product(const Tensor&, float, const Tensor&, float, const Tensor&) {
  throw std::logic_error("cuda: symmetric_product is missing");
}
std::int64_t CudaBackend::matrices_at_once(Shape) const {
  throw std::logic_error("cuda: matrices_at_once is missing");
}

}  // namespace spectrain
