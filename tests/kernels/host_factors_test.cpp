#include <algorithm>

#include "kernels/lapack.h"
#include "tests/kernels/factor_matrices.h"

// What the factorisations of the CPU promise beyond being right (factors_test.cpp): the same bits for every
// number of threads, the memory of the plan.

namespace spectrain {
namespace {

TEST(Factors, DoNotDependOnTheNumberOfThreads) {
  const std::int64_t n = 40, count = 7;
  std::vector<std::vector<std::byte>> answers;
  for (const int threads : {1, 2, 5}) {
    const auto backend = make_cpu_backend({.threads = threads});
    std::vector<Dense> xs;
    for (std::uint64_t i = 0; i < count; ++i) xs.push_back(gaussian(n, n, 60 + i));
    const OnBackend a(*backend, DType::f32, xs, {count, n, n}), v(*backend, DType::f32, {count, n, n}),
        w(*backend, DType::f32, {count, n}), vt(*backend, DType::f32, {count, n, n});
    const auto keep = [&](const OnBackend& x) {
      const auto* const p = static_cast<const std::byte*>(x.tensor.data);
      answers.emplace_back(p, p + x.tensor.bytes());
    };
    for (int round = 0; round < 20; ++round) {  // a library that is not made for threads errs now and then
      backend->eigh(a.tensor, v.tensor, w.tensor);
      keep(v);
      keep(w);
    }
    const OnBackend q(*backend, DType::f32, xs, {count, n, n});
    backend->orthonormal_columns(q.tensor);
    keep(q);
    backend->svd(a.tensor, v.tensor, w.tensor, vt.tensor);
    keep(v);
    keep(w);
    keep(vt);
  }
  const std::size_t each = answers.size() / 3;
  for (std::size_t i = 0; i < answers.size(); ++i)
    EXPECT_TRUE(answers[i] == answers[i < each ? i : i % each]) << i;
  for (std::size_t i = 2; i < 40; ++i) EXPECT_TRUE(answers[i] == answers[i % 2]) << "round " << i / 2;
}

TEST(Factors, TakeTheMemoryTheySayAndKeepIt) {
  for (const int threads : {1, 2, 3})
    for (const Shape& shape :
         {Shape{20, 20}, Shape{30, 9}, Shape{9, 30}, Shape{2, 16, 16}, Shape{4, 16, 16}}) {
      const auto backend = make_cpu_backend({.threads = threads});
      const std::int64_t n = shape.cols(), count = shape.rank() == 3 ? shape[0] : 1, m = shape.rows() / count,
                         r = std::min(m, n);
      const std::vector<Dense> xs(static_cast<std::size_t>(count), gaussian(m, n, 2));
      const OnBackend a(*backend, DType::f32, xs, shape),
          s(*backend, DType::f32, shape.rank() == 3 ? Shape{count, r} : Shape{r});
      const std::size_t before = backend->allocated_bytes();
      backend->svd(a.tensor, {}, s.tensor, {});
      EXPECT_EQ(backend->allocated_bytes() - before, backend->factor_bytes(shape)) << shape.str();
      if (m >= n) backend->orthonormal_columns(a.tensor);
      EXPECT_EQ(backend->allocated_bytes() - before, backend->factor_bytes(shape)) << shape.str();
      EXPECT_GE(backend->factor_bytes(shape), static_cast<std::size_t>(m * n) * 4);
    }
  EXPECT_THROW(make_cpu_backend()->factor_bytes({40000, 40000}), Error);
}

// The second way to an SVD, taken where the first does not converge, is as good as the first.
TEST(Factors, SvdByIteration) {
  for (const auto& [m, n] : {std::pair<std::int64_t, std::int64_t>{30, 12}, {12, 30}, {1, 4}}) {
    const std::int64_t r = std::min(m, n);
    Dense x = gaussian(m, n, 4);
    Dense u(r, m), s(r, 1), vt(n, r);  // by columns: each is the transpose of what LAPACK gives
    const lapack::Room room = lapack::svd_room<double>(m, n);
    std::vector<double> elements(static_cast<std::size_t>(room.elements));
    std::vector<int> integers(static_cast<std::size_t>(room.integers));
    Dense columns = transposed(x);
    EXPECT_EQ(lapack::svd_by_iteration(m, n, columns.a.data(), s.a.data(), u.a.data(), vt.a.data(),
                                       lapack::Work<double>{elements.data(), integers.data(), room}),
              0);
    EXPECT_LE(largest_difference(product(scaled_columns(transposed(u), s.a), transposed(vt)), x),
              bound(DType::f64, std::max(m, n), s.a[0]));
    EXPECT_LE(off_orthonormal(transposed(u)), bound(DType::f64, m));
    EXPECT_LE(off_orthonormal(vt), bound(DType::f64, n));
  }
}

}  // namespace
}  // namespace spectrain
