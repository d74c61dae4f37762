#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::cross_entropy(const Tensor&, const Tensor&, std::int64_t, const Softcap&, double,
                                const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: cross_entropy is missing");
}

}  // namespace spectrain
