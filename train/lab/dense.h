#pragma once

#include <cstdint>
#include <vector>

#include "kernels/random.h"
#include "optim/newton_schulz_options.h"

// Float64 matrices on the host, by rows, for experiments whose claims are about numbers and not about speed:
// the kernels of the backends are float32. Everything runs on the calling thread, so that results do not
// depend on the number of threads. Functions throw std::logic_error when shapes do not fit.

namespace spectrain::lab {

struct Matrix {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> a;  // [rows * cols]

  Matrix() = default;
  Matrix(std::int64_t r, std::int64_t c) : rows(r), cols(c), a(static_cast<std::size_t>(r * c)) {}
  double& operator()(std::int64_t i, std::int64_t j) { return a[static_cast<std::size_t>(i * cols + j)]; }
  double operator()(std::int64_t i, std::int64_t j) const {
    return a[static_cast<std::size_t>(i * cols + j)];
  }
};

Matrix identity(std::int64_t n);
Matrix transposed(const Matrix& a);
Matrix product(const Matrix& a, const Matrix& b);                 // a [m,k] b [k,n]
Matrix product_with_transpose(const Matrix& a, const Matrix& b);  // a [m,k] b^T, b [n,k]
Matrix scaled(double p, const Matrix& a);
void add_scaled(Matrix& a, double q, const Matrix& b);  // a += q b

double inner(const Matrix& a, const Matrix& b);  // sum over ij of a_ij b_ij
double frobenius(const Matrix& a);
double largest_magnitude(const Matrix& a);
double largest_difference(const Matrix& a, const Matrix& b);  // max |a_ij - b_ij|

// a = u diag(s) vt: u [m,r], s [r] descending, vt [r,n], r = min(m,n). Throws Error when a holds NaN or
// infinity. LAPACK's divide and conquer, and its QR iteration where that does not converge.
struct Svd {
  Matrix u, vt;
  std::vector<double> s;
};
Svd svd(const Matrix& a);
std::vector<double> singular_values(const Matrix& a);  // [min(m,n)] descending

// U V^T of a = U S V^T, the update that Muon approximates, with the nuclear norm (sum of S) and the spectral
// norm (largest of S) that come for free. Directions with singular values below eps max(m,n) s_1 are rounding
// and left out, so that the factor of zero is zero, as in the rule spectral_descent.
struct Polar {
  Matrix factor;
  double nuclear = 0, spectral = 0;
};
Polar polar(const Matrix& a);

// Newton-Schulz in float64 with the coefficients of the rules (optim/newton_schulz.h): a / ||a||_F iterated.
Matrix newton_schulz(const Matrix& a, const NewtonSchulzOptions& options);
NewtonSchulzOptions keller_newton_schulz(int steps);  // the quintic (3.4445, -4.7750, 2.0315)

// Elements of the counter-based sequence, by rows: independent of everything that was drawn before. Standard
// normal numbers have float32's resolution, which no experiment here can see.
Matrix gaussian(std::int64_t rows, std::int64_t cols, RandomKey key, double deviation = 1);
// The orthogonal factor of a Gaussian matrix: uniformly distributed over the orthogonal group.
Matrix random_orthogonal(std::int64_t n, RandomKey key);

// n numbers from `first` to `last`, each the same factor from the next; n = 1: first.
std::vector<double> log_spaced(double first, double last, std::int64_t n);
// A sequence of its own for a purpose and its index: "noise", 3.
RandomKey key_of(std::uint64_t seed, const char* purpose, std::uint64_t index = 0);
// FNV-1a of the bytes of the elements: what tests hold generators against.
std::uint64_t hash_of(const Matrix& a);

}  // namespace spectrain::lab
