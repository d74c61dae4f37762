#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/random.h"
#include "tests/kernels/kernel_cases.h"

// Matrices in float64 whose factors are known, for judging factorisations.

namespace spectrain {

struct Dense {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> a;
  Dense(std::int64_t r, std::int64_t c) : rows(r), cols(c), a(static_cast<std::size_t>(r * c)) {}
  double& operator()(std::int64_t i, std::int64_t j) { return a[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(std::int64_t i, std::int64_t j) const {
    return a[static_cast<std::size_t>(i * cols + j)];
  }
};

inline Dense transposed(const Dense& x) {
  Dense t(x.cols, x.rows);
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t j = 0; j < x.cols; ++j) t(j, i) = x(i, j);
  return t;
}

inline Dense product(const Dense& x, const Dense& y) {
  Dense p(x.rows, y.cols);
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t k = 0; k < x.cols; ++k)
      for (std::int64_t j = 0; j < y.cols; ++j) p(i, j) += x(i, k) * y(k, j);
  return p;
}

inline Dense scaled_columns(Dense x, const std::vector<double>& s) {
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t j = 0; j < x.cols; ++j) x(i, j) *= s[static_cast<std::size_t>(j)];
  return x;
}

inline double largest(const Dense& x) {
  double most = 0;
  for (const double v : x.a) most = std::isnan(v) ? v : std::fmax(most, std::fabs(v));
  return most;
}

inline double largest_difference(const Dense& x, const Dense& y) {
  double most = 0;
  for (std::size_t i = 0; i < x.a.size(); ++i) {
    const double d = std::fabs(x.a[i] - y.a[i]);
    if (!(d <= most)) most = d;  // NaN stays
    if (std::isnan(d)) break;
  }
  return most;
}

// |x^T x - I|, element by element.
inline double off_orthonormal(const Dense& x) {
  Dense one(x.cols, x.cols);
  for (std::int64_t i = 0; i < x.cols; ++i) one(i, i) = 1;
  return largest_difference(product(transposed(x), x), one);
}

inline Dense gaussian(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Dense x(rows, cols);
  for (std::size_t i = 0; i < x.a.size(); ++i)
    x.a[i] = static_cast<double>(normal_at({seed, 77}, i, 0.0f, 1.0f));
  return x;
}

// rows >= cols. Gram-Schmidt, twice.
inline Dense random_orthonormal(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Dense q = gaussian(rows, cols, seed);
  for (std::int64_t j = 0; j < cols; ++j) {
    for (int pass = 0; pass < 2; ++pass)
      for (std::int64_t k = 0; k < j; ++k) {
        double dot = 0;
        for (std::int64_t i = 0; i < rows; ++i) dot += q(i, j) * q(i, k);
        for (std::int64_t i = 0; i < rows; ++i) q(i, j) -= dot * q(i, k);
      }
    double squares = 0;
    for (std::int64_t i = 0; i < rows; ++i) squares += q(i, j) * q(i, j);
    for (std::int64_t i = 0; i < rows; ++i) q(i, j) /= std::sqrt(squares);
  }
  return q;
}

inline constexpr double kC = 8;

// A batch of equally large matrices on a backend, in its master dtype.
class OnBackend {
 public:
  OnBackend(Backend& backend, DType dtype, Shape shape) {
    buffer_ =
        backend.allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype) + 64, "a test matrix");
    tensor = buffer_->view(dtype, shape);
    backend.fill(tensor, std::numeric_limits<double>::quiet_NaN());
  }
  OnBackend(Backend& backend, DType dtype, const std::vector<Dense>& matrices, Shape shape)
      : OnBackend(backend, dtype, shape) {
    std::int64_t at = 0;
    for (const Dense& m : matrices)
      for (const double x : m.a) set(at++, x);
  }
  void set(std::int64_t i, double x) {
    if (tensor.dtype == DType::f64)
      tensor.as<double>()[i] = x;
    else
      tensor.as<float>()[i] = static_cast<float>(x);
  }
  Dense get(std::int64_t index, std::int64_t rows, std::int64_t cols) const {
    Dense m(rows, cols);
    for (std::int64_t i = 0; i < rows * cols; ++i)
      m.a[static_cast<std::size_t>(i)] = element(tensor, index * rows * cols + i);
    return m;
  }
  Tensor tensor;

 private:
  std::unique_ptr<Buffer> buffer_;
};

// A backward stable algorithm's rounding, of a matrix with this largest singular value.
inline double bound(DType dtype, std::int64_t n, double size = 1) {
  return kC * epsilon(dtype) * std::sqrt(static_cast<double>(n)) * size;
}

}  // namespace spectrain
