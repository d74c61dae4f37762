#include "train/lab/dense.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/error.h"
#include "optim/newton_schulz.h"

// The laboratory's float64 algebra against definitions, and its random matrices against golden hashes.

namespace spectrain::lab {
namespace {

constexpr double kEps = std::numeric_limits<double>::epsilon();

Matrix random(std::int64_t rows, std::int64_t cols, std::uint64_t index = 0) {
  return gaussian(rows, cols, key_of(7, "test", index));
}

TEST(LabDense, ProductIsTheSumOverTheInnerIndex) {
  const Matrix a = random(5, 11), b = random(11, 7, 1), c = product(a, b);
  for (std::int64_t i = 0; i < 5; ++i)
    for (std::int64_t j = 0; j < 7; ++j) {
      double sum = 0, size = 0;
      for (std::int64_t k = 0; k < 11; ++k) {
        sum += a(i, k) * b(k, j);
        size += std::abs(a(i, k) * b(k, j));
      }
      EXPECT_NEAR(c(i, j), sum, 11 * kEps * size);
    }
  EXPECT_EQ(largest_difference(product_with_transpose(a, transposed(b)), c), 0);
  EXPECT_THROW(product(b, a), std::logic_error);
}

TEST(LabDense, SingularValuesAndVectorsComposeTheMatrix) {
  for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{9, 9}, {5, 12}, {12, 5}, {1, 4}}) {
    const Matrix a = random(m, n);
    Svd parts = svd(a);
    const std::vector<double> s = parts.s;
    EXPECT_TRUE(std::is_sorted(s.rbegin(), s.rend()));
    const std::vector<double> alone = singular_values(a);
    for (std::size_t k = 0; k < s.size(); ++k) {
      EXPECT_NEAR(alone[k], s[k], 50 * kEps * s[0]);
      for (std::int64_t j = 0; j < n; ++j) parts.vt(static_cast<std::int64_t>(k), j) *= s[k];
    }
    EXPECT_LT(largest_difference(product(parts.u, parts.vt), a), 50 * kEps * s[0]) << m << " x " << n;
  }
}

TEST(LabDense, PolarFactorIsOrthonormalAndCarriesTheNuclearNorm) {
  const Matrix a = random(6, 10);
  const Polar o = polar(a);
  EXPECT_LT(largest_difference(product_with_transpose(o.factor, o.factor), identity(6)), 50 * kEps);
  // <A, U V^T> is the sum of the singular values, and no matrix of spectral norm 1 has a larger product with
  // A.
  EXPECT_NEAR(inner(a, o.factor), o.nuclear, 100 * kEps * o.nuclear);
  double sum = 0;
  for (const double s : singular_values(a)) sum += s;
  EXPECT_NEAR(o.nuclear, sum, 100 * kEps * sum);
  EXPECT_NEAR(o.spectral, singular_values(a).front(), 50 * kEps * o.spectral);
  EXPECT_EQ(largest_magnitude(polar(Matrix(4, 3)).factor), 0);
  // Rank 1: the directions that rounding alone fills are left out.
  const Polar one = polar(product(random(6, 1), random(1, 10, 1)));
  EXPECT_NEAR(frobenius(one.factor), 1, 100 * kEps);
}

TEST(LabDense, NewtonSchulzMapsSingularValuesByItsPolynomials) {
  const NewtonSchulzOptions options = keller_newton_schulz(5);
  for (const bool tall : {false, true}) {
    const Matrix a = tall ? random(14, 6) : random(6, 14);
    const Svd parts = svd(a);
    const double norm = frobenius(a);
    const std::vector<double> result = singular_values(newton_schulz(a, options));
    std::vector<double> expected;
    for (double s : parts.s) {
      s /= norm;
      for (const Quintic& q : quintics(options)) {
        const double s2 = s * s;
        s *= static_cast<double>(q.a) + s2 * (static_cast<double>(q.b) + s2 * static_cast<double>(q.c));
      }
      expected.push_back(s);
    }
    std::sort(expected.rbegin(), expected.rend());
    // Five steps amplify rounding by at most 3.4445^5 = 485.
    for (std::size_t k = 0; k < expected.size(); ++k) EXPECT_NEAR(result[k], expected[k], 485 * 50 * kEps);
  }
  EXPECT_EQ(largest_magnitude(newton_schulz(Matrix(3, 3), options)), 0);
}

// The band that every criterion for Newton-Schulz in the laboratory rests on.
TEST(LabDense, FiveStepsOfKellerJordanLandBetween0682And1202) {
  double least = 10, most = 0;
  for (const double start : log_spaced(0.003, 1, 20001)) {
    double s = start;
    for (const Quintic& q : quintics(keller_newton_schulz(5)))
      s *= static_cast<double>(q.a) + s * s * (static_cast<double>(q.b) + s * s * static_cast<double>(q.c));
    least = std::min(least, s);
    most = std::max(most, s);
  }
  EXPECT_NEAR(least, 0.682, 0.0005);
  EXPECT_NEAR(most, 1.202, 0.0005);
}

TEST(LabDense, RefusesWhatIsNotFinite) {
  Matrix a = random(3, 3);
  a(1, 2) = std::numeric_limits<double>::quiet_NaN();
  EXPECT_THROW(polar(a), Error);
  EXPECT_THROW(singular_values(a), Error);
}

TEST(LabDense, RandomMatricesAreGolden) {
  EXPECT_EQ(hash_of(gaussian(16, 24, key_of(1, "start"), 2)), 0x13f947a1c377894dull);
  EXPECT_EQ(hash_of(gaussian(24, 40, key_of(1, "distance to the optimum", 19))), 0xdb196efa2974cc50ull);
  // A part of a longer sequence is that sequence's beginning, whatever was drawn before.
  const Matrix small = gaussian(2, 8, key_of(1, "start")), large = gaussian(4, 8, key_of(1, "start"));
  for (std::int64_t j = 0; j < 8; ++j) EXPECT_EQ(small(1, j), large(1, j));
  EXPECT_NE(hash_of(gaussian(4, 4, key_of(1, "start", 0))), hash_of(gaussian(4, 4, key_of(1, "start", 1))));
  EXPECT_NE(hash_of(gaussian(4, 4, key_of(1, "start"))), hash_of(gaussian(4, 4, key_of(2, "start"))));
  EXPECT_NE(hash_of(gaussian(4, 4, key_of(1, "start"))), hash_of(gaussian(4, 4, key_of(1, "noise"))));
}

TEST(LabDense, RandomOrthogonalIsOrthogonal) {
  const Matrix q = random_orthogonal(30, key_of(1, "input embeddings"));
  EXPECT_LT(largest_difference(product_with_transpose(q, q), identity(30)), 100 * kEps);
}

}  // namespace
}  // namespace spectrain::lab
