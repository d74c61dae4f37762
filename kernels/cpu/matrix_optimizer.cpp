#include <fmt/format.h>

#include <stdexcept>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/matrix_state.h"

// The products of optimizers (Newton-Schulz and its kin), whose operands change at every call.

namespace spectrain {

void CpuBackend::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha,
                        float beta, const Tensor& c) {
  if (c.shape.rank() == 3) {
    for (std::int64_t i = 0; i < c.shape[0]; ++i)
      matmul(a.matrix(i), transpose_a, b.matrix(i), transpose_b, alpha, beta, c.matrix(i));
    return;
  }
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
  if (matrices().engine(a.dtype) == MatrixEngine::onednn) {
    OnednnProduct p;
    p.m = m, p.n = n, p.k = k;
    p.a = a, p.transpose_a = transpose_a;
    p.b = b, p.transpose_b = transpose_b;
    p.alpha = alpha, p.beta = beta;
    p.c = c;
    return matrices().multiply_onednn(p, a.dtype);
  }
  GemmProblem p;
  p.m = m, p.n = n, p.k = k;
  p.a = {a.data, a.cols(), bf16, transpose_a, false};
  p.b = {b.data, b.cols(), bf16, !transpose_b, false};
  p.alpha = alpha;
  p.c = c.data, p.c_bf16 = c.dtype == DType::bf16, p.ldc = n;
  if (beta != 0) p.d = c.data, p.beta = beta;
  matrices().multiply(p, a.dtype);
}

void CpuBackend::symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta,
                                   const Tensor& c) {
  if (c.shape.rank() == 3) {
    for (std::int64_t i = 0; i < c.shape[0]; ++i)
      symmetric_product(a.matrix(i), alpha, d ? d.matrix(i) : d, beta, c.matrix(i));
    return;
  }
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
  const Tensor addend = beta != 0 ? d : Tensor();
  // Half the work with own kernels, unless the other kernels are several times as fast.
  if (bf16 && matrices().engine(a.dtype) == MatrixEngine::onednn) {
    OnednnProduct p;
    p.m = m, p.n = m, p.k = k;
    p.a = p.b = a, p.transpose_b = true;
    p.alpha = alpha, p.beta = addend ? beta : 0;
    p.c = c;
    if (addend && d.data != c.data) copy(d, c);
    matrices().multiply_onednn(p, a.dtype);
    return matrices().mirror(c);
  }
  GemmProblem p;
  p.m = m, p.n = m, p.k = k;
  p.a = p.b = {a.data, k, bf16, false, false};
  p.alpha = alpha;
  p.c = c.data, p.c_bf16 = c.dtype == DType::bf16, p.ldc = m;
  if (addend) p.d = addend.data, p.beta = beta;
  matrices().multiply_symmetric(p, a.dtype);
}

}  // namespace spectrain
