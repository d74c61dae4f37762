#include <gmock/gmock.h>

#include <algorithm>
#include <limits>

#include "tests/kernels/factor_matrices.h"
#include "tests/kernels/kernel_cases.h"

// Factorisations are judged by what they promise: that the factors multiply to the matrix, are orthonormal
// and in order, and carry the right signs, all to within a backward stable algorithm's rounding, c eps
// sqrt(n) of the matrix' largest singular value; and where the matrix was made of known factors, by those.

namespace spectrain {
namespace {

using Spectrum = std::vector<double>;

Spectrum descending(std::int64_t n, double (*value)(double i, double n)) {
  Spectrum s;
  for (std::int64_t i = 0; i < n; ++i) s.push_back(value(static_cast<double>(i), static_cast<double>(n)));
  return s;
}
// Each at most 1. The third is ill-conditioned, the fourth of rank 1 + n/2, the fifth has one value for all.
std::vector<Spectrum> spectra(std::int64_t n) {
  return {descending(n, [](double i, double m) { return 1 - 0.9 * i / m; }),
          descending(n, [](double i, double) { return 1 / ((1 + i) * (1 + i)); }),
          descending(n, [](double i, double) { return std::pow(0.5, i); }),
          descending(n, [](double i, double m) { return 2 * i < m ? 1 - i / m : 0.0; }),
          descending(n, [](double, double) { return 1.0; }),
          descending(n, [](double, double) { return 0.0; })};
}

void expect_turned(const Dense& x, const char* what) {
  for (std::int64_t j = 0; j < x.cols; ++j) {
    double most = 0;
    for (std::int64_t i = 0; i < x.rows; ++i)
      if (std::fabs(x(i, j)) > std::fabs(most)) most = x(i, j);
    EXPECT_GT(most, 0) << "column " << j << " of " << what;
  }
}

// What is handed to a backend is rounded to its dtype first; so is what it is compared with.
Dense rounded(Dense x, DType dtype) {
  if (dtype == DType::f32)
    for (double& v : x.a) v = static_cast<double>(static_cast<float>(v));
  return x;
}
Dense symmetric(const Dense& q, const Spectrum& values, DType dtype) {
  Dense x = rounded(product(scaled_columns(q, values), transposed(q)), dtype);
  for (std::int64_t i = 0; i < x.rows; ++i)
    for (std::int64_t j = 0; j < i; ++j) x(i, j) = x(j, i);
  return x;
}

void expect_eigh(const Dense& a, const Dense& v, const Dense& w, Spectrum known, DType dtype) {
  const std::int64_t n = a.rows;
  EXPECT_LE(largest_difference(product(scaled_columns(v, w.a), transposed(v)), a), bound(dtype, n));
  EXPECT_LE(off_orthonormal(v), bound(dtype, n));
  EXPECT_TRUE(std::is_sorted(w.a.begin(), w.a.end()));
  std::sort(known.begin(), known.end());
  for (std::size_t i = 0; i < known.size(); ++i)
    EXPECT_NEAR(w.a[i], known[i], bound(dtype, n)) << "value " << i;
  expect_turned(v, "the eigenvectors");
}

void expect_svd(const Dense& a, const Dense& u, const Dense& s, const Dense& vt, const Spectrum& known,
                DType dtype) {
  const std::int64_t n = std::max(a.rows, a.cols);
  EXPECT_LE(largest_difference(product(scaled_columns(u, s.a), vt), a), bound(dtype, n));
  EXPECT_LE(off_orthonormal(u), bound(dtype, n));
  EXPECT_LE(off_orthonormal(transposed(vt)), bound(dtype, n));
  EXPECT_TRUE(std::is_sorted(s.a.rbegin(), s.a.rend()));
  for (std::size_t i = 0; i < known.size(); ++i)
    EXPECT_NEAR(s.a[i], known[i], bound(dtype, n)) << "value " << i;
  expect_turned(u, "U");
}

void expect_qr(const Dense& a, const Dense& q, DType dtype) {
  EXPECT_LE(off_orthonormal(q), bound(dtype, a.rows));
  const Dense r = product(transposed(q), a);
  const double size = 1 + largest(a) * std::sqrt(static_cast<double>(a.rows));
  EXPECT_LE(largest_difference(product(q, r), a), bound(dtype, a.rows, size));
  for (std::int64_t i = 0; i < r.rows; ++i) {
    EXPECT_GE(r(i, i), -bound(dtype, a.rows, size)) << "the diagonal of R, " << i;
    for (std::int64_t j = 0; j < i; ++j)
      EXPECT_LE(std::fabs(r(i, j)), bound(dtype, a.rows, size)) << "R is upper triangular";
  }
}

class FactorsTest : public KernelTest {
 protected:
  // The backend under test and the reference, each in its dtype.
  template <class Body>
  void both(const Body& body) {
    {
      SCOPED_TRACE("tested");
      body(cpu(), DType::f32);
    }
    SCOPED_TRACE("reference");
    body(exact(), DType::f64);
  }
};

TEST_P(FactorsTest, EighOfKnownSpectra) {
  both([](Backend& backend, DType dtype) {
    for (const std::int64_t n : {1, 2, 5, 33, 70})
      for (const Spectrum& positive : spectra(n))
        for (const double sign : {1.0, -1.0}) {  // the second: alternating signs
          SCOPED_TRACE(testing::Message() << n << ", second value " << (n > 1 ? positive[1] : 0));
          Spectrum values = positive;
          for (std::size_t i = 1; i < values.size(); i += 2) values[i] *= sign;
          const Dense x = symmetric(random_orthonormal(n, n, 3), values, dtype);
          const OnBackend a(backend, dtype, {x}, {n, n}), v(backend, dtype, {n, n}), w(backend, dtype, {n});
          backend.eigh(a.tensor, v.tensor, w.tensor);
          expect_eigh(x, v.get(0, n, n), w.get(0, n, 1), values, dtype);
          EXPECT_EQ(largest_difference(a.get(0, n, n), x), 0) << "a was changed";
          backend.eigh(a.tensor, a.tensor, w.tensor);
          EXPECT_EQ(largest_difference(a.get(0, n, n), v.get(0, n, n)), 0) << "in place";
        }
  });
}

// Second differences: eigenvalues 2 - 2 cos(k pi / (n + 1)), eigenvector k is sin(j k pi / (n + 1)).
TEST_P(FactorsTest, EighOfSecondDifferences) {
  both([](Backend& backend, DType dtype) {
    const std::int64_t n = 24;
    const double step = std::acos(-1.0) / (n + 1);
    Dense x(n, n), sines(n, n);
    Spectrum values;
    for (std::int64_t i = 0; i < n; ++i) {
      x(i, i) = 2;
      if (i > 0) x(i, i - 1) = x(i - 1, i) = -1;
      values.push_back(2 - 2 * std::cos(static_cast<double>(i + 1) * step));
      for (std::int64_t k = 0; k < n; ++k)
        sines(i, k) = std::sqrt(2.0 / (n + 1)) * std::sin(static_cast<double>((i + 1) * (k + 1)) * step);
    }
    const OnBackend a(backend, dtype, {x}, {n, n}), v(backend, dtype, {n, n}), w(backend, dtype, {n});
    backend.eigh(a.tensor, v.tensor, w.tensor);
    for (std::int64_t k = 0; k < n; ++k) {
      EXPECT_NEAR(element(w.tensor, k), values[static_cast<std::size_t>(k)], bound(dtype, n, 4));
      double dot = 0;  // an eigenvector is off by eps |x| / (distance of its value to the next)
      for (std::int64_t i = 0; i < n; ++i) dot += element(v.tensor, i * n + k) * sines(i, k);
      EXPECT_NEAR(std::fabs(dot), 1, bound(dtype, n, 4)) << "eigenvector " << k;
    }
  });
}

TEST_P(FactorsTest, EighOfBatches) {
  both([](Backend& backend, DType dtype) {
    const std::int64_t n = 19;
    std::vector<Dense> xs;
    for (std::uint64_t i = 0; i < 3; ++i)
      xs.push_back(symmetric(random_orthonormal(n, n, 10 + i), spectra(n)[i], dtype));
    const OnBackend a(backend, dtype, xs, {3, n, n}), v(backend, dtype, {3, n, n}), w(backend, dtype, {3, n});
    backend.eigh(a.tensor, v.tensor, w.tensor);
    for (std::int64_t i = 0; i < 3; ++i) {
      const auto at = static_cast<std::size_t>(i);
      expect_eigh(xs[at], v.get(i, n, n), w.get(i, n, 1), spectra(n)[at], dtype);
    }
  });
}

TEST_P(FactorsTest, OrthonormalColumns) {
  both([](Backend& backend, DType dtype) {
    for (const auto& [m, n] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {9, 1}, {7, 3}, {40, 7}, {33, 33}, {100, 64}}) {
      SCOPED_TRACE(testing::Message() << m << " x " << n);
      // Q is as unique as R is well-conditioned: diagonal 1 to 2, little above it.
      const Dense q = random_orthonormal(m, n, 5);
      Dense r(n, n);
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t j = i; j < n; ++j)
          r(i, j) = i == j ? 1 + static_cast<double>(i) / static_cast<double>(n)
                           : 0.3 / static_cast<double>(n) * ((i + j) % 3 == 0 ? 1 : -1);
      const Dense x = rounded(product(q, r), dtype);
      const OnBackend a(backend, dtype, {x}, {m, n});
      backend.orthonormal_columns(a.tensor);
      expect_qr(x, a.get(0, m, n), dtype);
      EXPECT_LE(largest_difference(a.get(0, m, n), q), bound(dtype, m, 2));
    }
  });
}

TEST_P(FactorsTest, OrthonormalColumnsOfBatchesAndOfLowRank) {
  both([](Backend& backend, DType dtype) {
    const std::int64_t m = 30, n = 8;
    std::vector<Dense> xs = {Dense(m, n), rounded(gaussian(m, n, 8), dtype),
                             rounded(gaussian(m, n, 9), dtype)};
    for (std::int64_t i = 0; i < m; ++i) xs[1](i, 3) = xs[1](i, 2);             // one column twice
    for (std::int64_t i = 0; i < m; ++i) xs[2](i, 0) = 0, xs[2](i, 5) *= 1e-6;  // one of nothing
    xs[2] = rounded(xs[2], dtype);
    const OnBackend a(backend, dtype, xs, {3, m, n});
    backend.orthonormal_columns(a.tensor);
    for (std::int64_t i = 0; i < 3; ++i) {
      SCOPED_TRACE(i);
      expect_qr(xs[static_cast<std::size_t>(i)], a.get(i, m, n), dtype);
    }
  });
}

TEST_P(FactorsTest, SvdOfKnownSpectra) {
  both([](Backend& backend, DType dtype) {
    for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                               {1, 7},
                               {7, 1},
                               {5, 9},
                               {9, 5},
                               {33, 33},
                               {20, 64},
                               {64, 20},
                               {12, 150}}) {
      const std::int64_t r = std::min(m, n);
      for (const Spectrum& values : spectra(r)) {
        SCOPED_TRACE(testing::Message() << m << " x " << n << ", second value " << (r > 1 ? values[1] : 0));
        const Dense x = rounded(product(scaled_columns(random_orthonormal(m, r, 21), values),
                                        transposed(random_orthonormal(n, r, 22))),
                                dtype);
        const OnBackend a(backend, dtype, {x}, {m, n}), again(backend, dtype, {x}, {m, n}),
            u(backend, dtype, {m, r}), s(backend, dtype, {r}), vt(backend, dtype, {r, n}),
            alone(backend, dtype, {r});
        backend.svd(a.tensor, u.tensor, s.tensor, vt.tensor);
        expect_svd(x, u.get(0, m, r), s.get(0, r, 1), vt.get(0, r, n), values, dtype);
        backend.svd(again.tensor, {}, alone.tensor, {});
        EXPECT_LE(largest_difference(alone.get(0, r, 1), s.get(0, r, 1)), bound(dtype, std::max(m, n)));
      }
    }
  });
}

TEST_P(FactorsTest, SvdOfBatches) {
  both([](Backend& backend, DType dtype) {
    for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{17, 6}, {6, 17}}) {
      SCOPED_TRACE(testing::Message() << m << " x " << n);
      std::vector<Dense> xs;
      for (std::uint64_t i = 0; i < 3; ++i)
        xs.push_back(rounded(product(scaled_columns(random_orthonormal(m, 6, 30 + i), spectra(6)[i]),
                                     transposed(random_orthonormal(n, 6, 40 + i))),
                             dtype));
      const OnBackend a(backend, dtype, xs, {3, m, n}), u(backend, dtype, {3, m, 6}),
          s(backend, dtype, {3, 6}), vt(backend, dtype, {3, 6, n});
      backend.svd(a.tensor, u.tensor, s.tensor, vt.tensor);
      for (std::int64_t i = 0; i < 3; ++i) {
        const auto at = static_cast<std::size_t>(i);
        expect_svd(xs[at], u.get(i, m, 6), s.get(i, 6, 1), vt.get(i, 6, n), spectra(6)[at], dtype);
      }
    }
  });
}

TEST_P(FactorsTest, RefuseWhatIsNotFinite) {
  both([](Backend& backend, DType dtype) {
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
          -std::numeric_limits<double>::infinity()}) {
      const std::int64_t n = 6;
      const Dense x = symmetric(random_orthonormal(n, n, 3), spectra(n)[0], dtype);
      const OnBackend v(backend, dtype, {3, n, n}), w(backend, dtype, {3, n}), vt(backend, dtype, {3, n, n});
      const auto spoilt = [&] {
        OnBackend a(backend, dtype, {x, x, x}, {3, n, n});
        a.set(n * n + 3, bad);  // in the upper triangle of the second
        return a;
      };
      const auto message = [](const auto& call) {
        try {
          call();
        } catch (const Error& e) {
          return std::string(e.what());
        }
        return std::string("no error");
      };
      EXPECT_THAT(message([&] { backend.eigh(spoilt().tensor, v.tensor, w.tensor); }),
                  testing::HasSubstr("no eigendecomposition of matrix 1 of [3, 6, 6], for it holds NaN"));
      EXPECT_THAT(message([&] { backend.orthonormal_columns(spoilt().tensor); }),
                  testing::HasSubstr("no QR decomposition of matrix 1 of [3, 6, 6]"));
      EXPECT_THAT(message([&] { backend.svd(spoilt().tensor, v.tensor, w.tensor, vt.tensor); }),
                  testing::HasSubstr("no singular value decomposition of matrix 1 of [3, 6, 6]"));
      const OnBackend good(backend, dtype, {x, x, x}, {3, n, n});
      backend.eigh(good.tensor, v.tensor, w.tensor);  // goes on as before
      expect_eigh(x, v.get(2, n, n), w.get(2, n, 1), spectra(n)[0], dtype);
    }
  });
}

TEST_P(FactorsTest, RefuseWhatDoesNotFit) {
  const Twin square = random({4, 4}, DType::f32), wide = random({4, 6}, DType::f32),
             vector = random({4}, DType::f32), other = random({5}, DType::f32),
             half = random({4, 4}, DType::bf16);
  EXPECT_THROW(cpu().eigh(wide.tested, wide.tested, vector.tested), std::logic_error);
  EXPECT_THROW(cpu().eigh(square.tested, square.tested, other.tested), std::logic_error);
  EXPECT_THROW(cpu().eigh(half.tested, half.tested, vector.tested), std::logic_error);
  EXPECT_THROW(cpu().orthonormal_columns(wide.tested), std::logic_error);
  EXPECT_THROW(cpu().orthonormal_columns(vector.tested), std::logic_error);
  EXPECT_THROW(cpu().svd(square.tested, square.tested, vector.tested, {}), std::logic_error);
  EXPECT_THROW(cpu().svd(wide.tested, wide.tested, vector.tested, wide.tested), std::logic_error);
}

TEST_P(FactorsTest, AnswersAreTheSameBitsInEveryCall) {
  const std::int64_t n = 48;
  std::vector<Dense> xs;
  for (std::uint64_t i = 0; i < 5; ++i) xs.push_back(rounded(gaussian(n, n, 50 + i), DType::f32));
  const auto run = [&](const Twin& u, const Twin& s, const Twin& vt) {
    const OnBackend a(cpu(), DType::f32, xs, {5, n, n});
    cpu().svd(a.tensor, u.tested, s.tested, vt.tested);
  };
  const Twin u = output({5, n, n}, DType::f32), s = output({5, n}, DType::f32),
             vt = output({5, n, n}, DType::f32), u2 = output({5, n, n}, DType::f32),
             s2 = output({5, n}, DType::f32), vt2 = output({5, n, n}, DType::f32);
  run(u, s, vt);
  run(u2, s2, vt2);
  expect_same_bits(u.tested, u2.tested, "U");
  expect_same_bits(s.tested, s2.tested, "s");
  expect_same_bits(vt.tested, vt2.tested, "Vt");
}

SPECTRAIN_KERNEL_TEST_ALL(FactorsTest);

}  // namespace
}  // namespace spectrain
