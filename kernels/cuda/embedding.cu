#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::embedding(const Tensor&, const Tensor&, const Tensor&, std::int64_t, const Tensor&) {
  throw std::logic_error("cuda: embedding is missing");
}
void CudaBackend::embedding_backward(const Tensor&, const Tensor&, std::int64_t, const Tensor&,
                                     const Tensor&) {
  throw std::logic_error("cuda: embedding_backward is missing");
}

}  // namespace spectrain
