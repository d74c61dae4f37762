#include <fmt/format.h>

#include <stdexcept>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/matrix_state.h"

// The products of optimizers (Newton-Schulz and its kin), whose operands change at every call.

namespace spectrain {

void CpuBackend::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha,
                        float beta, const Tensor& c) {
  require_compute(a, "matmul", "a");
  require_compute(b, "matmul", "b");
  require_compute(c, "matmul", "c");
  require(a.dtype == b.dtype, "matmul", "a and b have different dtypes");
  require(c.dtype == a.dtype || c.dtype == DType::f32, "matmul", "c has neither a's dtype nor f32");
  const std::int64_t m = c.rows(), n = c.cols(), k = transpose_a ? a.rows() : a.cols();
  if ((transpose_a ? a.cols() : a.rows()) != m || (transpose_b ? b.rows() : b.cols()) != n ||
      (transpose_b ? b.cols() : b.rows()) != k)
    throw std::logic_error(fmt::format("matmul: {}{} times {}{} is not {}", a.shape.str(),
                                       transpose_a ? "^T" : "", b.shape.str(), transpose_b ? "^T" : "",
                                       c.shape.str()));
  const bool bf16 = a.dtype == DType::bf16;
  GemmProblem p;
  p.m = m, p.n = n, p.k = k;
  p.a = {a.data, a.cols(), bf16, transpose_a, false};
  p.b = {b.data, b.cols(), bf16, !transpose_b, false};
  p.alpha = alpha;
  p.c = c.data, p.c_bf16 = c.dtype == DType::bf16, p.ldc = n;
  if (beta != 0) p.d = c.data, p.beta = beta;
  Matrices& products = matrices();
  products.multiply(p, products.kernels_for(bf16));
}

void CpuBackend::symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta,
                                   const Tensor& c) {
  require_compute(a, "symmetric_product", "a");
  require_compute(c, "symmetric_product", "c");
  require(c.dtype == a.dtype || c.dtype == DType::f32, "symmetric_product",
          "c has neither a's dtype nor f32");
  const std::int64_t m = a.rows(), k = a.cols();
  if (c.rows() != m || c.cols() != m)
    throw std::logic_error(
        fmt::format("symmetric_product: c is {} but [{}, {}] is needed", c.shape.str(), m, m));
  if (d) require_same(d, c, "symmetric_product", "d and c");
  const bool bf16 = a.dtype == DType::bf16;
  GemmProblem p;
  p.m = m, p.n = m, p.k = k;
  p.a = p.b = {a.data, k, bf16, false, false};
  p.alpha = alpha;
  p.c = c.data, p.c_bf16 = c.dtype == DType::bf16, p.ldc = m;
  if (d && beta != 0) p.d = d.data, p.beta = beta;
  Matrices& products = matrices();
  products.multiply_symmetric(p, products.kernels_for(bf16));
}

}  // namespace spectrain
