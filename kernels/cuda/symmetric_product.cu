#include <algorithm>
#include <cmath>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/symmetric_product.h"

namespace spectrain {
namespace {

constexpr int kThreads = 128;

bool is_factor(DType t) { return t == DType::f32 || t == DType::bf16 || t == DType::f16; }

SymmetricProduct checked(const char* kernel, const Tensor& a, const Tensor& b, float alpha, const Tensor& d,
                         float beta, const Tensor& c) {
  const bool batch = c.shape.rank() == 3;
  SymmetricProduct p;
  p.batch = batch ? c.shape[0] : 1;
  p.m = c.cols();
  p.k = a.cols();
  require(is_factor(a.dtype) && a.dtype == b.dtype, kernel,
          "a and b must be f32, bf16 or f16, both the same");
  require(c.dtype == a.dtype || c.dtype == DType::f32, kernel, "c has neither a's dtype nor f32");
  require(a.shape == b.shape && a.rows() == p.batch * p.m && c.rows() == p.batch * p.m, kernel,
          [&] { return a.shape.str() + " gives no " + c.shape.str(); });
  if (d && beta != 0) {
    require_same(d, c, kernel, "d and c");
    p.d = d.data;
    p.beta = beta;
  }
  p.a = a.data, p.b = b.data, p.c = c.data;
  p.factors = a.dtype, p.result = c.dtype;
  p.alpha = alpha;
  return p;
}

void run(CudaBackend& backend, const SymmetricProduct& p) {
  if (p.batch == 0 || p.m == 0) return;
  if (fits_tensor_cores(p))
    symmetric_by_tensor_cores(backend, p);
  else
    symmetric_by_ffma(backend, p);
}

// Floor: one sector of 32 bytes in and out for each diagonal element.
template <class T>
__global__ void identity_kernel(T* c, std::int64_t m, std::int64_t elements, float factor) {
  SPECTRAIN_GRID_LOOP(i, elements) {
    T& x = c[i / m * m * m + i % m * (m + 1)];
    x = narrow<T>(widen(x) + factor);
  }
}

}  // namespace

void CudaBackend::symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta,
                                    const Tensor& c) {
  run(*this, checked("symmetric_product", a, a, alpha, d, beta, c));
}

void CudaBackend::commuting_product(const Tensor& a, const Tensor& b, float alpha, const Tensor& d,
                                    float beta, const Tensor& c) {
  run(*this, checked("commuting_product", a, b, alpha, d, beta, c));
}

void CudaBackend::add_identity(const Tensor& c, float factor) {
  const std::int64_t m = c.cols(), elements = c.rows();
  require(m > 0 && elements % m == 0, "add_identity", "the matrices are not square");
  with_iterated(c, "add_identity", [&](auto* p) {
    launch(stream_, {blocks_for((elements + kThreads - 1) / kThreads), kThreads},
           identity_kernel<Element<decltype(p)>>, p, m, elements, factor);
  });
}

}  // namespace spectrain
