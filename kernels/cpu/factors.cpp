#include "kernels/cpu/cpu_backend.h"
#include "kernels/host_factors.h"

namespace spectrain {

HostFactors& CpuBackend::factors() {
  if (!factors_)
    factors_ = std::make_unique<HostFactors>(
        threads_, [this](std::size_t bytes) { return allocate(bytes, "work memory of factorisations"); });
  return *factors_;
}

void CpuBackend::eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) {
  factors().eigh(a, vectors, values);
}

void CpuBackend::orthonormal_columns(const Tensor& a) { factors().orthonormal_columns(a); }

void CpuBackend::svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) {
  factors().svd(a, u, s, vt);
}

std::size_t CpuBackend::factor_bytes(Shape batch) const {
  return HostFactors::bytes(batch, DType::f32, threads_);
}

}  // namespace spectrain
