#include "tests/optim/dense.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <utility>

namespace spectrain {

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix c(a.rows, b.cols);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t k = 0; k < a.cols; ++k) {
      const double f = a(i, k);
      const double* from = &b.a[static_cast<std::size_t>(k * b.cols)];
      double* to = &c.a[static_cast<std::size_t>(i * c.cols)];
      for (std::int64_t j = 0; j < b.cols; ++j) to[j] += f * from[j];
    }
  return c;
}

Matrix transposed(const Matrix& a) {
  Matrix t(a.cols, a.rows);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < a.cols; ++j) t(j, i) = a(i, j);
  return t;
}

Matrix combined(double p, const Matrix& a, double q, const Matrix& b) {
  Matrix c = a;
  for (std::size_t i = 0; i < c.a.size(); ++i) c.a[i] = p * a.a[i] + q * b.a[i];
  return c;
}

double frobenius(const Matrix& a) {
  double s = 0;
  for (const double x : a.a) s += x * x;
  return std::sqrt(s);
}

double relative_difference(const Matrix& a, const Matrix& b) {
  return frobenius(combined(1, a, -1, b)) / frobenius(b);
}

double cosine(const Matrix& a, const Matrix& b) {
  double s = 0;
  for (std::size_t i = 0; i < a.a.size(); ++i) s += a.a[i] * b.a[i];
  return s / (frobenius(a) * frobenius(b));
}

Matrix gaussian(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::normal_distribution<double> normal;
  Matrix m(rows, cols);
  for (double& x : m.a) x = normal(engine);
  return m;
}

Matrix orthonormal_rows(std::int64_t rows, std::int64_t cols, std::uint64_t seed) {
  Matrix q = gaussian(rows, cols, seed);
  for (std::int64_t i = 0; i < rows; ++i)
    for (int pass = 0; pass < 2; ++pass) {  // Gram-Schmidt, twice is enough
      for (std::int64_t j = 0; j < i; ++j) {
        double dot = 0;
        for (std::int64_t k = 0; k < cols; ++k) dot += q(i, k) * q(j, k);
        for (std::int64_t k = 0; k < cols; ++k) q(i, k) -= dot * q(j, k);
      }
      double squares = 0;
      for (std::int64_t k = 0; k < cols; ++k) squares += q(i, k) * q(i, k);
      for (std::int64_t k = 0; k < cols; ++k) q(i, k) /= std::sqrt(squares);
    }
  return q;
}

namespace {

// Turns rows i and j so that they become orthogonal; how far from it they were, as a cosine.
double rotate_rows(Matrix& g, std::int64_t i, std::int64_t j) {
  double ii = 0, jj = 0, ij = 0;
  for (std::int64_t k = 0; k < g.cols; ++k) {
    ii += g(i, k) * g(i, k);
    jj += g(j, k) * g(j, k);
    ij += g(i, k) * g(j, k);
  }
  if (ij == 0) return 0;
  const double zeta = (jj - ii) / (2 * ij);
  const double t = (zeta >= 0 ? 1 : -1) / (std::abs(zeta) + std::sqrt(1 + zeta * zeta));
  const double c = 1 / std::sqrt(1 + t * t), s = c * t;
  for (std::int64_t k = 0; k < g.cols; ++k) {
    const double x = g(i, k), y = g(j, k);
    g(i, k) = c * x - s * y;
    g(j, k) = s * x + c * y;
  }
  return std::abs(ij) / std::sqrt(ii * jj);
}

}  // namespace

std::vector<double> singular_values(const Matrix& a) {
  const Matrix t = transposed(a);
  Matrix g = a.rows <= a.cols ? product(a, t) : product(t, a);
  for (int sweep = 0; sweep < 30; ++sweep) {
    double worst = 0;
    for (std::int64_t i = 0; i < g.rows; ++i)
      for (std::int64_t j = i + 1; j < g.rows; ++j) worst = std::max(worst, rotate_rows(g, i, j));
    if (worst < 1e-10) break;
  }
  std::vector<double> values;
  for (std::int64_t i = 0; i < g.rows; ++i) {
    double squares = 0;
    for (std::int64_t k = 0; k < g.cols; ++k) squares += g(i, k) * g(i, k);
    values.push_back(std::pow(squares, 0.25));
  }
  std::sort(values.begin(), values.end(), std::greater<>());
  return values;
}

Matrix Factored::compose(const std::vector<double>& values) const {
  Matrix scaled = v;
  for (std::int64_t i = 0; i < v.rows; ++i)
    for (std::int64_t k = 0; k < v.cols; ++k) scaled(i, k) *= values[static_cast<std::size_t>(i)];
  return product(u, scaled);
}

Factored with_spectrum(std::int64_t rows, std::int64_t cols, std::vector<double> s, std::uint64_t seed) {
  const std::int64_t n = std::min(rows, cols);
  return {transposed(orthonormal_rows(n, rows, seed)), orthonormal_rows(n, cols, seed + 1), std::move(s)};
}

}  // namespace spectrain
