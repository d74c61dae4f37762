#pragma once

#include <cstdint>
#include <vector>

#include "train/lab/dense.h"

namespace spectrain::lab {

// f(D) = 1/2 tr(D^T A D B), D [m,n], the distance to the optimum, in the bases of A's and B's eigenvectors:
// both diagonal, which loses nothing where D is Gaussian, since neither its distribution nor an orthogonal
// factor knows a basis. Eigenvalues fall from 1 to 1 / condition, each by the same factor; the largest
// curvature is 1.
struct KroneckerQuadratic {
  KroneckerQuadratic(std::int64_t m, std::int64_t n, double condition_a, double condition_b)
      : a(log_spaced(1, 1 / condition_a, m)), b(log_spaced(1, 1 / condition_b, n)) {}

  Matrix gradient(const Matrix& d) const;  // A D B
  double value(const Matrix& d) const { return inner(d, gradient(d)) / 2; }
  double curvature(const Matrix& o) const { return inner(o, gradient(o)); }  // <O, A O B>

  std::vector<double> a, b;
};

inline Matrix KroneckerQuadratic::gradient(const Matrix& d) const {
  Matrix g = d;
  for (std::int64_t i = 0; i < d.rows; ++i)
    for (std::int64_t j = 0; j < d.cols; ++j)
      g(i, j) *= a[static_cast<std::size_t>(i)] * b[static_cast<std::size_t>(j)];
  return g;
}

}  // namespace spectrain::lab
