#pragma once

#include <cstdint>
#include <vector>

// Plain float64 matrices for the tests: what the optimizer's kernels are compared with.

namespace spectrain {

struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> a;

  Matrix() = default;
  Matrix(std::int64_t r, std::int64_t c) : rows(r), cols(c), a(static_cast<std::size_t>(r * c)) {}
  Matrix(std::int64_t r, std::int64_t c, std::vector<double> values)
      : rows(r), cols(c), a(std::move(values)) {}
  double& operator()(std::int64_t i, std::int64_t j) { return a[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(std::int64_t i, std::int64_t j) const {
    return a[static_cast<std::size_t>(i * cols + j)];
  }
};

Matrix product(const Matrix& a, const Matrix& b);
Matrix transposed(const Matrix& a);
Matrix combined(double p, const Matrix& a, double q, const Matrix& b);  // p a + q b
double frobenius(const Matrix& a);
double relative_difference(const Matrix& a, const Matrix& b);  // |a - b| / |b|
double cosine(const Matrix& a, const Matrix& b);

Matrix gaussian(std::int64_t rows, std::int64_t cols, std::uint64_t seed);
Matrix orthonormal_rows(std::int64_t rows, std::int64_t cols, std::uint64_t seed);  // rows <= cols

// Descending, by one-sided Jacobi rotations of the Gram matrix of the shorter side: good to about 1e-8 of the
// largest, which is plenty for values near 1.
std::vector<double> singular_values(const Matrix& a);

// U diag(s) V with known factors: U [rows, n], V [n, cols], n = s.size() = min(rows, cols).
struct Factored {
  Matrix u, v;
  std::vector<double> s;
  Matrix compose(const std::vector<double>& values) const;  // U diag(values) V
};
Factored with_spectrum(std::int64_t rows, std::int64_t cols, std::vector<double> s, std::uint64_t seed);

}  // namespace spectrain
