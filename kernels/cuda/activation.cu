#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

void CudaBackend::activation(Activation, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: activation is missing");
}
void CudaBackend::activation_backward(Activation, const Tensor&, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: activation_backward is missing");
}
void CudaBackend::swiglu(const Tensor&, const Tensor&) { throw std::logic_error("cuda: swiglu is missing"); }
void CudaBackend::swiglu_backward(const Tensor&, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: swiglu_backward is missing");
}
void CudaBackend::add(const Tensor&, const Tensor&, const Tensor&) {
  throw std::logic_error("cuda: add is missing");
}
void CudaBackend::scale(const Tensor&, double, const Tensor&) {
  throw std::logic_error("cuda: scale is missing");
}

}  // namespace spectrain
