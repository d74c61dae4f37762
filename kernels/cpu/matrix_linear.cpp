#include <fmt/format.h>
#include <omp.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/matrix_state.h"

// The products of linear layers with prepared weights, and their gradients.

namespace spectrain {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

std::size_t panel_bytes(const GemmKernels& kernels, std::int64_t n, std::int64_t k) {
  return static_cast<std::size_t>(ceil_div(n, kernels.cols) * kernels.cols * ceil_div(k, kernels.k_step)) * 4;
}

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

CpuBackend::Matrices& CpuBackend::matrices() {
  if (!matrices_) matrices_ = std::make_unique<Matrices>(*this);
  return *matrices_;
}

std::unique_ptr<PreparedMatrix> CpuBackend::prepare(const Tensor& master, DType compute, bool backward) {
  require_compute(master, "prepare", "master");
  require(compute == DType::f32 || compute == DType::bf16, "prepare", "compute is neither f32 nor bf16");
  auto matrix = std::make_unique<Matrices::Prepared>(master.rows(), master.cols());
  const std::int64_t n = master.rows(), k = master.cols();
  matrix->compute = compute;
  matrix->kernels = &matrices().kernels_for(compute == DType::bf16);
  matrix->forward = allocate(panel_bytes(*matrix->kernels, n, k), "a prepared matrix");
  if (backward) matrix->backward = allocate(panel_bytes(*matrix->kernels, k, n), "a prepared matrix");
  refresh(*matrix, master);
  return matrix;
}

std::size_t CpuBackend::prepared_bytes(Shape shape, DType compute, bool backward) const {
  const GemmTable& table = SPECTRAIN_ISA_SELECT(gemm_table);
  const bool pairs = compute == DType::bf16 && cpu_isa() == Isa::avx512_bf16;
  const GemmKernels& kernels = pairs ? table.pairs : table.f32;
  return panel_bytes(kernels, shape.rows(), shape.cols()) +
         (backward ? panel_bytes(kernels, shape.cols(), shape.rows()) : 0);
}

void CpuBackend::refresh(PreparedMatrix& w, const Tensor& master) {
  require_shape(master, w.rows(), w.cols(), "refresh", "master");
  auto* matrix = dynamic_cast<Matrices::Prepared*>(&w);
  require(matrix != nullptr, "refresh", "the matrix was prepared by another backend");
  matrices().pack(master, *matrix);
}

void CpuBackend::linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act,
                        const Tensor& pre, const Tensor& y) {
  const Matrices::Prepared& matrix = prepared(w, "linear");
  const std::int64_t r = x.rows(), n = w.rows(), k = w.cols();
  require_shape(x, r, k, "linear", "x");
  require_shape(y, r, n, "linear", "y");
  require_vector(bias, DType::f32, n, true, "linear", "bias");
  if (pre) require_same(pre, y, "linear", "pre and y");
  const Tensor& sums = pre ? pre : y;
  GemmProblem p;
  p.m = r, p.n = n, p.k = k;
  p.a = source_of(x, false, matrix.compute);
  p.b_panels = matrix.forward->data();
  p.bias = bias ? bias.as<float>() : nullptr;
  p.c = sums.data, p.c_bf16 = sums.dtype == DType::bf16, p.ldc = n;
  matrices().multiply(p, *matrix.kernels);
  if (act != Activation::none)
    activation(act, sums, y);
  else if (pre)
    copy(pre, y);
}

void CpuBackend::linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                                       bool accumulate) {
  const Matrices::Prepared& matrix = prepared(w, "linear_backward_input");
  const std::int64_t r = dy.rows(), n = w.rows(), k = w.cols();
  require_shape(dy, r, n, "linear_backward_input", "dy");
  require_shape(dx, r, k, "linear_backward_input", "dx");
  require(matrix.backward != nullptr, "linear_backward_input", "the matrix was prepared without `backward`");
  GemmProblem p;
  p.m = r, p.n = k, p.k = n;
  p.a = source_of(dy, false, matrix.compute);
  p.b_panels = matrix.backward->data();
  p.c = dx.data, p.c_bf16 = dx.dtype == DType::bf16, p.ldc = k;
  if (accumulate) p.d = dx.data, p.beta = 1;
  matrices().multiply(p, *matrix.kernels);
}

void CpuBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                        bool accumulate) {
  const std::int64_t r = x.rows(), n = dw.rows(), k = dw.cols();
  require_shape(dy, r, n, "linear_backward_weight", "dy");
  require_shape(x, r, k, "linear_backward_weight", "x");
  require_shape(dw, n, k, "linear_backward_weight", "dw");
  require(dw.dtype == DType::f32, "linear_backward_weight", "dw is not f32");
  GemmProblem p;
  p.m = n, p.n = k, p.k = r;
  p.a = source_of(dy, true, x.dtype);
  p.b = source_of(x, true, x.dtype);
  p.c = dw.data, p.ldc = k;
  if (accumulate) p.d = dw.data, p.beta = 1;
  Matrices& products = matrices();
  products.multiply(p, products.kernels_for(x.dtype == DType::bf16));
}

void CpuBackend::bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) {
  require_compute(dy, "bias_gradient", "dy");
  const std::int64_t r = dy.rows(), n = dy.cols();
  require_vector(db, DType::f32, n, false, "bias_gradient", "db");
  const GemmSource source = source_of(dy, false, dy.dtype);
  float* out = db.as<float>();
  const GemmKernels& kernels = matrices().kernels_for(false);
  const std::int64_t strips = ceil_div(n, 64);
  const int team = r * n < 32768 ? 1 : threads_;
#pragma omp parallel for schedule(dynamic, 1) num_threads(team) if (team > 1)
  for (std::int64_t strip = 0; strip < strips; ++strip) {
    const std::int64_t first = strip * 64, count = std::min<std::int64_t>(64, n - first);
    float sums[64];
    kernels.column_sums(source, r, first, count, sums);
    for (std::int64_t j = 0; j < count; ++j) out[first + j] = accumulate ? out[first + j] + sums[j] : sums[j];
  }
}

}  // namespace spectrain
