#include "kernels/factor_checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

void require_master(const Tensor& a, const char* kernel) {
  require(a.dtype == DType::f32 || a.dtype == DType::f64, kernel,
          [&] { return fmt::format("{} {} is not in the master dtype", name_of(a.dtype), a.shape.str()); });
}

// [rows, cols], or [B, rows, cols] where `a` is a batch.
Shape matching(const Tensor& a, std::int64_t rows, std::int64_t cols) {
  return a.shape.rank() == 3 ? Shape{a.shape[0], rows, cols} : Shape{rows, cols};
}
Shape matching(const Tensor& a, std::int64_t n) {
  return a.shape.rank() == 3 ? Shape{a.shape[0], n} : Shape{n};
}

void require_shape(const Tensor& t, const Tensor& a, const Shape& shape, const char* kernel,
                   const char* name) {
  require((t || shape.numel() == 0) && t.dtype == a.dtype && t.shape == shape, kernel, [&] {
    return fmt::format("{} is {} {}, not {} {}", name, name_of(t.dtype), t.shape.str(), name_of(a.dtype),
                       shape.str());
  });
}

std::string matrix_text(const Tensor& a, std::int64_t i) {
  return a.shape.rank() == 3 ? fmt::format("matrix {} of {}", i, a.shape.str())
                             : fmt::format("a matrix {}", a.shape.str());
}

}  // namespace

std::int64_t matrices_of(const Tensor& a, const char* kernel) {
  require(a.shape.rank() == 2 || a.shape.rank() == 3, kernel,
          [&] { return fmt::format("{} is neither a matrix nor a batch of matrices", a.shape.str()); });
  return a.shape.rank() == 3 ? a.shape[0] : 1;
}

void require_eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) {
  matrices_of(a, "eigh");
  require_master(a, "eigh");
  const std::int64_t n = a.cols();
  require(a.shape[a.shape.rank() - 2] == n, "eigh",
          [&] { return fmt::format("{} is not square", a.shape.str()); });
  require_shape(vectors, a, a.shape, "eigh", "vectors");
  require_shape(values, a, matching(a, n), "eigh", "values");
}

void require_orthonormal_columns(const Tensor& a) {
  matrices_of(a, "orthonormal_columns");
  require_master(a, "orthonormal_columns");
  require(a.shape[a.shape.rank() - 2] >= a.cols(), "orthonormal_columns",
          [&] { return fmt::format("{} has more columns than rows", a.shape.str()); });
}

void require_svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) {
  matrices_of(a, "svd");
  require_master(a, "svd");
  const std::int64_t n = a.cols(), m = a.shape[a.shape.rank() - 2], r = std::min(m, n);
  require_shape(s, a, matching(a, r), "svd", "s");
  require(bool(u) == bool(vt) || r == 0, "svd", "only one of u and vt is asked for");
  if (!u) return;
  require_shape(u, a, matching(a, m, r), "svd", "u");
  require_shape(vt, a, matching(a, r, n), "svd", "vt");
}

void throw_not_finite(const Tensor& a, std::int64_t i, const char* what) {
  throw Error(
      fmt::format("no {} of {}, for it holds NaN or infinity: the run has diverged, and a lower learning "
                  "rate may help",
                  what, matrix_text(a, i)));
}

void throw_not_converged(const Tensor& a, std::int64_t i, const char* what) {
  throw Error(
      fmt::format("the {} of {} did not converge: its numbers are out of all proportion, and a lower "
                  "learning rate may help",
                  what, matrix_text(a, i)));
}

}  // namespace spectrain
