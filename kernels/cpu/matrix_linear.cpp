#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/activation.h"
#include "kernels/cpu/matrix_state.h"
#include "kernels/cpu/parallel.h"

// The products of linear layers with prepared weights, and their gradients.

namespace spectrain {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

void require_shape(const Tensor& t, std::int64_t rows, std::int64_t cols, const char* kernel,
                   const char* name) {
  require_compute(t, kernel, name);
  if (t.rows() != rows || t.cols() != cols)
    throw std::logic_error(
        fmt::format("{}: {} is {} but [{}, {}] is needed", kernel, name, t.shape.str(), rows, cols));
}

GemmSource source_of(const Tensor& t, bool k_rows, DType compute) {
  return {t.data, t.cols(), t.dtype == DType::bf16, k_rows, compute == DType::bf16};
}

const CpuBackend::Matrices::Prepared& prepared(const PreparedMatrix& w, const char* kernel) {
  const auto* matrix = dynamic_cast<const CpuBackend::Matrices::Prepared*>(&w);
  if (!matrix) throw std::logic_error(fmt::format("{}: the matrix was prepared by another backend", kernel));
  return *matrix;
}

}  // namespace

// A bias, an activation and `pre` with oneDNN follow in a pass of their own over y; the own kernels do the
// same while a block of rows is in the cache. Either way y is exactly activation(what linear() without one
// would have stored), read back in y's dtype: asking for `pre` as well changes no bit of y.
void CpuBackend::linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act,
                        const Tensor& pre, const Tensor& y) {
  const Matrices::Prepared& matrix = prepared(w, "linear");
  const std::int64_t r = x.rows(), n = w.rows(), k = w.cols();
  require_shape(x, r, k, "linear", "x");
  require_shape(y, r, n, "linear", "y");
  require_vector(bias, DType::f32, n, true, "linear", "bias");
  if (pre) require_same(pre, y, "linear", "pre and y");
  const Tensor& sums = pre ? pre : y;
  if (matrix.engine == MatrixEngine::onednn) {
    OnednnProduct p;
    p.m = r, p.n = n, p.k = k;
    p.a = x.reshaped({r, k}), p.packed_b = matrix.forward->data();
    p.bias = bias;
    p.c = sums;
    matrices().multiply_onednn(p, matrix.compute);
    if (act != Activation::none || pre) activation(act, sums, y);
    return;
  }
  GemmProblem p;
  p.m = r, p.n = n, p.k = k;
  p.a = source_of(x, false, matrix.compute);
  p.b_panels = matrix.forward->data();
  p.bias = bias ? bias.as<float>() : nullptr;
  p.c = sums.data, p.c_bf16 = sums.dtype == DType::bf16, p.ldc = n;
  RowPass pass;
  if (act != Activation::none || pre) {
    const ActivationTable& table = SPECTRAIN_ISA_SELECT(activation_table);
    pass = {table.forward[p.c_bf16][static_cast<int>(act)], y.data};
  }
  matrices().multiply(p, matrix.compute, pass);
}

void CpuBackend::linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                                       bool accumulate) {
  const Matrices::Prepared& matrix = prepared(w, "linear_backward_input");
  const std::int64_t r = dy.rows(), n = w.rows(), k = w.cols();
  require_shape(dy, r, n, "linear_backward_input", "dy");
  require_shape(dx, r, k, "linear_backward_input", "dx");
  require(matrix.backward != nullptr, "linear_backward_input", "the matrix was prepared without `backward`");
  if (matrix.engine == MatrixEngine::onednn) {
    OnednnProduct p;
    p.m = r, p.n = k, p.k = n;
    p.a = dy, p.packed_b = matrix.backward->data();
    p.beta = accumulate ? 1 : 0;
    p.c = dx;
    return matrices().multiply_onednn(p, matrix.compute);
  }
  GemmProblem p;
  p.m = r, p.n = k, p.k = n;
  p.a = source_of(dy, false, matrix.compute);
  p.b_panels = matrix.backward->data();
  p.c = dx.data, p.c_bf16 = dx.dtype == DType::bf16, p.ldc = k;
  if (accumulate) p.d = dx.data, p.beta = 1;
  matrices().multiply(p, matrix.compute);
}

void CpuBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                        bool accumulate) {
  const std::int64_t r = x.rows(), n = dw.rows(), k = dw.cols();
  require_shape(dy, r, n, "linear_backward_weight", "dy");
  require_shape(x, r, k, "linear_backward_weight", "x");
  require_shape(dw, n, k, "linear_backward_weight", "dw");
  require(dw.dtype == DType::f32, "linear_backward_weight", "dw is not f32");
  const DType compute = x.dtype;
  if (matrices().engine(compute) == MatrixEngine::onednn) {
    OnednnProduct p;
    p.m = n, p.n = k, p.k = r;
    p.a = dy, p.transpose_a = true;
    p.b = x;
    p.beta = accumulate ? 1 : 0;
    p.c = dw;
    return matrices().multiply_onednn(p, compute);
  }
  GemmProblem p;
  p.m = n, p.n = k, p.k = r;
  p.a = source_of(dy, true, compute);
  p.b = source_of(x, true, compute);
  p.c = dw.data, p.ldc = k;
  if (accumulate) p.d = dw.data, p.beta = 1;
  matrices().multiply(p, compute);
}

void CpuBackend::bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) {
  require_compute(dy, "bias_gradient", "dy");
  const std::int64_t r = dy.rows(), n = dy.cols();
  require_vector(db, DType::f32, n, false, "bias_gradient", "db");
  const GemmSource source = source_of(dy, false, dy.dtype);
  float* out = db.as<float>();
  const GemmKernels& kernels = matrices().kernels_for(DType::f32);
  const std::int64_t strips = ceil_div(n, 64);
  const int team = r * n < 32768 ? 1 : threads_;
  parallel_tasks(team, strips, [&](std::int64_t strip, int) {
    const std::int64_t first = strip * 64, count = std::min<std::int64_t>(64, n - first);
    float sums[64];
    kernels.column_sums(source, r, first, count, sums);
    for (std::int64_t j = 0; j < count; ++j) out[first + j] = accumulate ? out[first + j] + sums[j] : sums[j];
  });
}

}  // namespace spectrain
