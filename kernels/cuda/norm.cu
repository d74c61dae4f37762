#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::norm(NormKind, const Tensor&, const Tensor&, const Tensor&, double, const Tensor&,
                       const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: norm is missing");
}
void CudaBackend::add_norm(NormKind, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double,
                           const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: add_norm is missing");
}
void CudaBackend::norm_backward(NormKind, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                const Tensor&, const Tensor&, bool, const Tensor&, const Tensor&, bool) {
  throw std::logic_error("cuda: norm_backward is missing");
}

}  // namespace spectrain
