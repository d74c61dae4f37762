#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/host_factors.h"
#include "tests/reference/reference_backend.h"

// Factorisations are LAPACK's, as on the CPU: nothing plainer is to be trusted more. Tests judge them by what
// they promise. Rows are plain loops.

namespace spectrain {

ReferenceBackend::ReferenceBackend() = default;
ReferenceBackend::~ReferenceBackend() = default;

HostFactors& ReferenceBackend::factors() {
  if (!factors_)
    factors_ = std::make_unique<HostFactors>(
        1, [this](std::size_t bytes) { return allocate(bytes, "work memory of factorisations"); });
  return *factors_;
}

void ReferenceBackend::eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) {
  factors().eigh(a, vectors, values);
}

void ReferenceBackend::orthonormal_columns(const Tensor& a) { factors().orthonormal_columns(a); }

void ReferenceBackend::svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) {
  factors().svd(a, u, s, vt);
}

std::size_t ReferenceBackend::factor_bytes(Shape batch) const {
  return HostFactors::bytes(batch, DType::f64, 1);
}

void ReferenceBackend::top_rows(const Tensor& scores, const Tensor& indices) {
  const double* const score = scores.as<double>();
  std::vector<std::int32_t> order(static_cast<std::size_t>(scores.numel()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [score](std::int32_t a, std::int32_t b) {
    if (std::isnan(score[a]) || std::isnan(score[b])) return !std::isnan(score[a]) && std::isnan(score[b]);
    return score[a] > score[b];
  });
  order.resize(static_cast<std::size_t>(indices.numel()));
  std::sort(order.begin(), order.end());
  std::copy(order.begin(), order.end(), indices.as<std::int32_t>());
}

void ReferenceBackend::gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) {
  for (std::int64_t i = 0; i < indices.numel(); ++i)
    copy(x.slice_rows(indices.as<std::int32_t>()[i], 1), y.slice_rows(i, 1));
}

void ReferenceBackend::copy_columns(const Tensor& x, std::int64_t x_first, const Tensor& y,
                                    std::int64_t y_first, std::int64_t count, bool accumulate) {
  for (std::int64_t r = 0; r < y.rows(); ++r)
    for (std::int64_t c = 0; c < count; ++c) {
      double& to = y.as<double>()[r * y.cols() + y_first + c];
      to = (accumulate ? to : 0) + (x ? x.as<double>()[r * x.cols() + x_first + c] : 0);
    }
}

void ReferenceBackend::scatter_rows(const Tensor& y, const Tensor& indices, const Tensor& x) {
  for (std::int64_t i = 0; i < indices.numel(); ++i)
    copy(y.slice_rows(i, 1), x.slice_rows(indices.as<std::int32_t>()[i], 1));
}

}  // namespace spectrain
