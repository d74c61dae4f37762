#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::adamw(const AdamWStep&, const Tensor&, const Tensor&, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: adamw is missing");
}
void CudaBackend::ema_momentum(const Tensor&, double, double, bool, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: ema_momentum is missing");
}
void CudaBackend::apply_update(const Tensor&, double, double, const Tensor&) {
  throw std::logic_error("cuda: apply_update is missing");
}
void CudaBackend::normalize(const Tensor&, double, const Tensor&) {
  throw std::logic_error("cuda: normalize is missing");
}
void CudaBackend::axpby(double, const Tensor&, double, const Tensor&) {
  throw std::logic_error("cuda: axpby is missing");
}

}  // namespace spectrain
