#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

std::unique_ptr<PreparedMatrix> CudaBackend::prepare(const Tensor&, DType, bool) {
  throw std::logic_error("cuda: prepare is missing");
}
std::size_t CudaBackend::prepared_bytes(Shape, DType, bool) const {
  throw std::logic_error("cuda: prepared_bytes is missing");
}
void CudaBackend::refresh(PreparedMatrix&, const Tensor&) {
  throw std::logic_error("cuda: refresh is missing");
}
std::vector<std::byte> CudaBackend::contents(const PreparedMatrix&) const {
  throw std::logic_error("cuda: contents is missing");
}
void CudaBackend::linear(const Tensor&, const PreparedMatrix&, const Tensor&, Activation, const Tensor&,
                         const Tensor&) {
  throw std::logic_error("cuda: linear is missing");
}
void CudaBackend::linear_backward_input(const Tensor&, const PreparedMatrix&, const Tensor&, bool) {
  throw std::logic_error("cuda: linear_backward_input is missing");
}
void CudaBackend::linear_backward_weight(const Tensor&, const Tensor&, const Tensor&, bool) {
  throw std::logic_error("cuda: linear_backward_weight is missing");
}
void CudaBackend::matmul(const Tensor&, bool, const Tensor&, bool, float, float, const Tensor&) {
  throw std::logic_error("cuda: matmul is missing");
}

}  // namespace spectrain
