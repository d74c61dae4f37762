#include "train/lab/dense.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "kernels/error.h"
#include "kernels/lapack.h"
#include "optim/newton_schulz.h"

namespace spectrain::lab {
namespace {

void require(bool fits, const char* what, const Matrix& a, const Matrix& b) {
  if (!fits)
    throw std::logic_error(fmt::format("{} of [{}, {}] and [{}, {}]", what, a.rows, a.cols, b.rows, b.cols));
}

void require_same(const char* what, const Matrix& a, const Matrix& b) {
  require(a.rows == b.rows && a.cols == b.cols, what, a, b);
}

}  // namespace

Matrix identity(std::int64_t n) {
  Matrix one(n, n);
  for (std::int64_t i = 0; i < n; ++i) one(i, i) = 1;
  return one;
}

Matrix transposed(const Matrix& a) {
  Matrix t(a.cols, a.rows);
  for (std::int64_t i = 0; i < a.rows; ++i)
    for (std::int64_t j = 0; j < a.cols; ++j) t(j, i) = a(i, j);
  return t;
}

Matrix product(const Matrix& a, const Matrix& b) {
  require(a.cols == b.rows, "product", a, b);
  Matrix c(a.rows, b.cols);
  const std::int64_t k = a.cols, n = b.cols;
  for (std::int64_t i = 0; i < a.rows; ++i) {
    double* const row = c.a.data() + i * n;
    const double *const x = a.a.data() + i * k, *const y = b.a.data();
    std::int64_t p = 0;
    // Four rows of b at a time: c's row is read and written a quarter as often.
    for (; p + 4 <= k; p += 4) {
      const double x0 = x[p], x1 = x[p + 1], x2 = x[p + 2], x3 = x[p + 3];
      const double *const y0 = y + p * n, *const y1 = y0 + n, *const y2 = y1 + n, *const y3 = y2 + n;
      for (std::int64_t j = 0; j < n; ++j) row[j] += (x0 * y0[j] + x1 * y1[j]) + (x2 * y2[j] + x3 * y3[j]);
    }
    for (; p < k; ++p)
      for (std::int64_t j = 0; j < n; ++j) row[j] += x[p] * y[p * n + j];
  }
  return c;
}

Matrix product_with_transpose(const Matrix& a, const Matrix& b) { return product(a, transposed(b)); }

Matrix scaled(double p, const Matrix& a) {
  Matrix result = a;
  for (double& x : result.a) x *= p;
  return result;
}

void add_scaled(Matrix& a, double q, const Matrix& b) {
  require_same("sum", a, b);
  for (std::size_t i = 0; i < a.a.size(); ++i) a.a[i] += q * b.a[i];
}

double inner(const Matrix& a, const Matrix& b) {
  require_same("inner product", a, b);
  double sum = 0;
  for (std::size_t i = 0; i < a.a.size(); ++i) sum += a.a[i] * b.a[i];
  return sum;
}

double frobenius(const Matrix& a) { return std::sqrt(inner(a, a)); }

double largest_magnitude(const Matrix& a) {
  double most = 0;
  for (const double x : a.a) most = std::max(most, std::abs(x));
  return most;
}

double largest_difference(const Matrix& a, const Matrix& b) {
  require_same("difference", a, b);
  double most = 0;
  for (std::size_t i = 0; i < a.a.size(); ++i) most = std::max(most, std::abs(a.a[i] - b.a[i]));
  return most;
}

namespace {

// LAPACK stores by columns and sees a^T = (V S) U^T: its left vectors are our right ones.
Svd factorise(const Matrix& a, bool vectors) {
  const std::int64_t m = a.rows, n = a.cols, r = std::min(m, n);
  for (const double x : a.a)
    if (!std::isfinite(x))
      throw Error(
          fmt::format("the singular values of a matrix [{}, {}] with NaN or infinity were asked for", m, n));
  Svd result{vectors ? Matrix(m, r) : Matrix(), vectors ? Matrix(r, n) : Matrix(),
             std::vector<double>(static_cast<std::size_t>(r))};
  if (r == 0) return result;
  const lapack::Room room = lapack::svd_room<double>(n, m);
  std::vector<double> elements(static_cast<std::size_t>(room.elements)), copy = a.a;
  std::vector<int> integers(static_cast<std::size_t>(room.integers));
  const lapack::Work<double> work{elements.data(), integers.data(), room};
  double *const left = vectors ? result.u.a.data() : nullptr, *const right =
                                                                  vectors ? result.vt.a.data() : nullptr;
  const auto failed = [&] { return !std::isfinite(result.s.front()) || !std::isfinite(result.s.back()); };
  if (lapack::svd(n, m, copy.data(), result.s.data(), right, left, work) == 0 && !failed()) return result;
  copy = a.a;
  if (lapack::svd_by_iteration(n, m, copy.data(), result.s.data(), right, left, work) != 0 || failed())
    throw Error(fmt::format("the singular values of a matrix [{}, {}] did not converge", m, n));
  return result;
}

}  // namespace

Svd svd(const Matrix& a) { return factorise(a, true); }
std::vector<double> singular_values(const Matrix& a) { return factorise(a, false).s; }

Polar polar(const Matrix& a) {
  Svd parts = factorise(a, true);
  Polar result;
  const double cut = std::numeric_limits<double>::epsilon() * static_cast<double>(std::max(a.rows, a.cols)) *
                     (parts.s.empty() ? 0 : parts.s.front());
  for (std::size_t k = 0; k < parts.s.size(); ++k) {
    result.nuclear += parts.s[k];
    if (parts.s[k] > cut) continue;
    for (std::int64_t j = 0; j < a.cols; ++j) parts.vt(static_cast<std::int64_t>(k), j) = 0;
  }
  result.spectral = parts.s.empty() ? 0 : parts.s.front();
  result.factor = product(parts.u, parts.vt);
  return result;
}

Matrix newton_schulz(const Matrix& a, const NewtonSchulzOptions& options) {
  const bool tall = a.rows > a.cols;
  const double norm = frobenius(a) * scheme(options.coefficients).safety;
  if (!(norm > 0)) return a;
  Matrix x = scaled(1 / norm, tall ? transposed(a) : a);
  for (const Quintic& q : quintics(options)) {
    const Matrix gram = product_with_transpose(x, x);
    Matrix polynomial = scaled(static_cast<double>(q.c), product(gram, gram));
    add_scaled(polynomial, static_cast<double>(q.b), gram);
    Matrix next = product(polynomial, x);
    add_scaled(next, static_cast<double>(q.a), x);
    x = std::move(next);
  }
  return tall ? transposed(x) : x;
}

NewtonSchulzOptions keller_newton_schulz(int steps) {
  NewtonSchulzOptions o;
  o.coefficients = NewtonSchulzTable::keller;
  o.steps = steps;
  return o;
}

Matrix gaussian(std::int64_t rows, std::int64_t cols, RandomKey key, double deviation) {
  Matrix a(rows, cols);
  for (std::size_t i = 0; i < a.a.size(); ++i)
    a.a[i] = deviation * static_cast<double>(normal_at(key, i, 0, 1));
  return a;
}

Matrix random_orthogonal(std::int64_t n, RandomKey key) { return polar(gaussian(n, n, key)).factor; }

std::vector<double> log_spaced(double first, double last, std::int64_t n) {
  std::vector<double> values(static_cast<std::size_t>(n), first);
  for (std::int64_t i = 1; i < n; ++i)
    values[static_cast<std::size_t>(i)] =
        first * std::pow(last / first, static_cast<double>(i) / static_cast<double>(n - 1));
  return values;
}

RandomKey key_of(std::uint64_t seed, const char* purpose, std::uint64_t index) {
  // An odd factor keeps different indices apart whatever the name's number is.
  return {seed, stream_of(purpose) + index * 0x9E3779B97F4A7C15ull};
}

std::uint64_t hash_of(const Matrix& a) {
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (const double x : a.a) {
    const auto bits = std::bit_cast<std::uint64_t>(x);
    for (int byte = 0; byte < 8; ++byte) h = (h ^ ((bits >> (8 * byte)) & 0xffu)) * 0x100000001b3ull;
  }
  return h;
}

}  // namespace spectrain::lab
