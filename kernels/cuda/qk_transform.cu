#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::qk_transform(const HeadLayout&, const QkTransform&, const Tensor&, const Tensor&,
                               const Tensor&) {
  throw std::logic_error("cuda: qk_transform is missing");
}
void CudaBackend::qk_transform_backward(const HeadLayout&, const QkTransform&, const Tensor&, const Tensor&,
                                        const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: qk_transform_backward is missing");
}

}  // namespace spectrain
