#include <algorithm>
#include <stdexcept>
#include <vector>

#include "tests/reference/reference_backend.h"

namespace spectrain {
namespace {

struct ReferenceMatrix final : PreparedMatrix {
  std::vector<double> w;  // [N,K]

  void read(const Tensor& master) {
    rows_ = master.rows();
    cols_ = master.cols();
    w.assign(master.as<double>(), master.as<double>() + master.numel());
  }
};

const std::vector<double>& elements(const PreparedMatrix& matrix) {
  return dynamic_cast<const ReferenceMatrix&>(matrix).w;
}

}  // namespace

std::unique_ptr<PreparedMatrix> ReferenceBackend::prepare(const Tensor& master, DType compute, bool) {
  if (compute != DType::f64) throw std::logic_error("the reference backend computes in f64 only");
  auto matrix = std::make_unique<ReferenceMatrix>();
  matrix->read(master);
  return matrix;
}

std::size_t ReferenceBackend::prepared_bytes(Shape shape, DType, bool) const {
  return static_cast<std::size_t>(shape.numel()) * sizeof(double);
}

void ReferenceBackend::refresh(PreparedMatrix& matrix, const Tensor& master) {
  dynamic_cast<ReferenceMatrix&>(matrix).read(master);
}

std::vector<std::byte> ReferenceBackend::contents(const PreparedMatrix& matrix) const {
  const std::vector<double>& w = dynamic_cast<const ReferenceMatrix&>(matrix).w;
  const auto* first = reinterpret_cast<const std::byte*>(w.data());
  return {first, first + w.size() * sizeof(double)};
}

void ReferenceBackend::linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act,
                              const Tensor& pre, const Tensor& y) {
  const std::int64_t R = x.rows(), K = w.cols(), N = w.rows();
  if (x.cols() != K || y.rows() != R || y.cols() != N) throw std::logic_error("linear: shapes do not fit");
  const double *X = x.as<double>(), *W = elements(w).data();
  double* Y = y.as<double>();
  for (std::int64_t r = 0; r < R; ++r)
    for (std::int64_t n = 0; n < N; ++n) {
      double s = 0;
      for (std::int64_t k = 0; k < K; ++k) s += X[r * K + k] * W[n * K + k];
      if (bias) s += bias.as<double>()[n];
      Y[r * N + n] = s;
    }
  if (pre) copy(y, pre);
  activation(act, y, y);
}

void ReferenceBackend::linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                                             bool accumulate) {
  const std::int64_t R = dy.rows(), K = w.cols(), N = w.rows();
  if (dy.cols() != N || dx.rows() != R || dx.cols() != K)
    throw std::logic_error("linear_backward_input: shapes do not fit");
  const double *DY = dy.as<double>(), *W = elements(w).data();
  double* DX = dx.as<double>();
  if (!accumulate) std::fill(DX, DX + R * K, 0.0);
  for (std::int64_t r = 0; r < R; ++r)
    for (std::int64_t n = 0; n < N; ++n)
      for (std::int64_t k = 0; k < K; ++k) DX[r * K + k] += DY[r * N + n] * W[n * K + k];
}

void ReferenceBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                              bool accumulate) {
  const std::int64_t R = dy.rows(), K = x.cols(), N = dy.cols();
  if (x.rows() != R || dw.rows() != N || dw.cols() != K)
    throw std::logic_error("linear_backward_weight: shapes do not fit");
  const double *DY = dy.as<double>(), *X = x.as<double>();
  double* DW = dw.as<double>();
  if (!accumulate) std::fill(DW, DW + N * K, 0.0);
  for (std::int64_t r = 0; r < R; ++r)
    for (std::int64_t n = 0; n < N; ++n)
      for (std::int64_t k = 0; k < K; ++k) DW[n * K + k] += DY[r * N + n] * X[r * K + k];
}

void ReferenceBackend::bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) {
  const std::int64_t R = dy.rows(), N = dy.cols();
  if (db.numel() != N) throw std::logic_error("bias_gradient: shapes do not fit");
  const double* DY = dy.as<double>();
  double* DB = db.as<double>();
  if (!accumulate) std::fill(DB, DB + N, 0.0);
  for (std::int64_t r = 0; r < R; ++r)
    for (std::int64_t n = 0; n < N; ++n) DB[n] += DY[r * N + n];
}

void ReferenceBackend::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b,
                              float alpha, float beta, const Tensor& c) {
  if (c.shape.rank() == 3) {
    for (std::int64_t i = 0; i < c.shape[0]; ++i)
      matmul(a.matrix(i), transpose_a, b.matrix(i), transpose_b, alpha, beta, c.matrix(i));
    return;
  }
  const std::int64_t M = c.rows(), N = c.cols(), K = transpose_a ? a.rows() : a.cols();
  if ((transpose_a ? a.cols() : a.rows()) != M || (transpose_b ? b.rows() : b.cols()) != N ||
      (transpose_b ? b.cols() : b.rows()) != K)
    throw std::logic_error("matmul: shapes do not fit");
  const double *A = a.as<double>(), *B = b.as<double>();
  double* C = c.as<double>();
  for (std::int64_t m = 0; m < M; ++m)
    for (std::int64_t n = 0; n < N; ++n) {
      double s = 0;
      for (std::int64_t k = 0; k < K; ++k)
        s += (transpose_a ? A[k * M + m] : A[m * K + k]) * (transpose_b ? B[n * K + k] : B[k * N + n]);
      C[m * N + n] = double{alpha} * s + (beta == 0 ? 0 : double{beta} * C[m * N + n]);
    }
}

void ReferenceBackend::symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta,
                                         const Tensor& c) {
  if (c.shape.rank() == 3) {
    for (std::int64_t i = 0; i < c.shape[0]; ++i)
      symmetric_product(a.matrix(i), alpha, d ? d.matrix(i) : d, beta, c.matrix(i));
    return;
  }
  const std::int64_t M = a.rows(), K = a.cols();
  if (c.rows() != M || c.cols() != M) throw std::logic_error("symmetric_product: shapes do not fit");
  const double* A = a.as<double>();
  double* C = c.as<double>();
  for (std::int64_t i = 0; i < M; ++i)
    for (std::int64_t j = 0; j <= i; ++j) {
      double s = 0;
      for (std::int64_t k = 0; k < K; ++k) s += A[i * K + k] * A[j * K + k];
      s = double{alpha} * s + (d ? double{beta} * d.as<double>()[i * M + j] : 0);
      C[i * M + j] = C[j * M + i] = s;
    }
}

}  // namespace spectrain
