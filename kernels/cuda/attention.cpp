#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::attention(const HeadLayout&, double, const Tensor&, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: attention is missing");
}
void CudaBackend::attention_backward(const HeadLayout&, double, const Tensor&, const Tensor&, const Tensor&,
                                     const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: attention_backward is missing");
}

}  // namespace spectrain
