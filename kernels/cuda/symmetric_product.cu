#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::symmetric_product(const Tensor&, float, const Tensor&, float, const Tensor&) {
  throw std::logic_error("cuda: symmetric_product is missing");
}
void CudaBackend::commuting_product(const Tensor&, const Tensor&, float, const Tensor&, float,
                                    const Tensor&) {
  throw std::logic_error("cuda: commuting_product is missing");
}
void CudaBackend::add_identity(const Tensor&, float) {
  throw std::logic_error("cuda: add_identity is missing");
}
std::int64_t CudaBackend::matrices_at_once(Shape) const {
  throw std::logic_error("cuda: matrices_at_once is missing");
}

}  // namespace spectrain
