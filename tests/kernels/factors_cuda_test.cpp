#include <gmock/gmock.h>

#include <algorithm>
#include <limits>
#include <span>

#include "kernels/cuda/sizes.h"
#include "tests/cuda_emulator/cusolver_emulated.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/kernels/factor_matrices.h"

// How the CUDA backend calls cuSOLVER: what it gives it, how often the host waits, and what it does with what
// the library says. On the emulated GPU, with an emulated library. (What comes out: factors_test.cpp.)

#if !defined(__SANITIZE_THREAD__)

namespace spectrain {
namespace {

class FactorsOnCuda : public testing::Test {
 protected:
  FactorsOnCuda() {
    emulator::cusolver_state() = {};
    make({});
  }
  ~FactorsOnCuda() override { emulator::cusolver_state() = {}; }
  void make(const CudaOptions& options) {
    buffers_.clear();
    backend_ = make_emulated_cuda_backend(options);
  }
  emulator::CusolverState& cusolver() { return emulator::cusolver_state(); }

  Tensor device(Shape shape) {
    buffers_.push_back(backend_->allocate(static_cast<std::size_t>(shape.numel()) * 4 + 64, "a test tensor"));
    const Tensor t = buffers_.back()->view(DType::f32, shape);
    backend_->fill(t, std::numeric_limits<double>::quiet_NaN());
    return t;
  }
  // Random, each matrix symmetric where it is square.
  Tensor matrices(Shape shape) {
    const Tensor t = device(shape);
    const std::int64_t count = shape.rank() == 3 ? shape[0] : 1, n = shape.cols(), m = shape.rows() / count;
    std::vector<float> all;
    for (std::int64_t i = 0; i < count; ++i) {
      const Dense x = gaussian(m, n, 7 + static_cast<std::uint64_t>(i));
      for (std::int64_t r = 0; r < m; ++r)
        for (std::int64_t c = 0; c < n; ++c)
          all.push_back(static_cast<float>(m == n ? x(std::max(r, c), std::min(r, c)) : x(r, c)));
    }
    backend_->copy_from_host(t, all.data());
    return t;
  }
  std::vector<float> host(const Tensor& t) {
    std::vector<float> x(static_cast<std::size_t>(t.numel()));
    backend_->copy_to_host(x.data(), t);
    return x;
  }
  template <class Call>
  std::string error_of(const Call& call) {
    try {
      call();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
  template <class Call>
  std::int64_t waits(const Call& call) {
    const std::int64_t before = emulator::counts().synchronizations;
    call();
    return emulator::counts().synchronizations - before;
  }

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

TEST_F(FactorsOnCuda, TheHostWaitsOnceForABatch) {
  const Tensor a = matrices({5, 12, 12}), v = device({5, 12, 12}), w = device({5, 12}),
               tall = matrices({5, 20, 6}), u = device({5, 20, 6}), s = device({5, 6}),
               st = device({5, 6, 6});
  EXPECT_EQ(waits([&] { backend_->eigh(a, v, w); }), 1);
  EXPECT_EQ(waits([&] { backend_->svd(tall, u, s, st); }), 1);
  EXPECT_EQ(waits([&] { backend_->orthonormal_columns(u); }), 1);
}

TEST_F(FactorsOnCuda, EigenvectorsOfABatchAreTheSameOneByOne) {
  const Tensor a = matrices({5, 12, 12}), v = device({5, 12, 12}), w = device({5, 12});
  backend_->eigh(a, v, w);
  EXPECT_EQ(cusolver().eigh_batches, 1);
  EXPECT_EQ(cusolver().eigh, 0);
  const std::vector<float> together = host(v);

  cusolver().batch_bytes = backend_->factor_bytes({5, 12, 12}) / 3;  // two fit, three do not
  backend_->fill(v, 0);
  backend_->eigh(a, v, w);
  EXPECT_EQ(cusolver().eigh_batches, 4);
  EXPECT_EQ(host(v), together);

  cusolver().batch_bytes = backend_->factor_bytes({5, 12, 12});  // not even two
  backend_->fill(v, 0);
  backend_->eigh(a, v, w);
  EXPECT_EQ(cusolver().eigh, 5);
  EXPECT_EQ(host(v), together);

  cusolver() = {};
  cusolver().has_batches = false;  // an older library
  make({});
  const Tensor a2 = matrices({5, 12, 12}), v2 = device({5, 12, 12}), w2 = device({5, 12});
  backend_->eigh(a2, v2, w2);
  EXPECT_EQ(cusolver().eigh, 5);
  EXPECT_EQ(host(v2), together);
}

TEST_F(FactorsOnCuda, TheLibraryNeverMeetsNaN) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Shape& shape : {Shape{3, 8, 8}, Shape{3, 9, 4}, Shape{3, 4, 9}}) {
    const std::int64_t m = shape[1], n = shape[2], r = std::min(m, n);
    const Tensor u = device({3, m, r}), s = device({3, r}), vt = device({3, r, n});
    const auto spoilt = [&] {
      const Tensor a = matrices(shape);
      backend_->copy_from_host(Tensor(a.as<float>() + 2 * m * n + 5, DType::f32, {1}), &nan);
      return a;
    };
    EXPECT_THAT(error_of([&] { backend_->svd(spoilt(), u, s, vt); }), testing::HasSubstr("matrix 2 of"));
    EXPECT_EQ(host(s).size(), static_cast<std::size_t>(3 * r));
    if (m == n) {
      EXPECT_THAT(error_of([&] { backend_->eigh(spoilt(), u, s); }), testing::HasSubstr("matrix 2 of"));
    }
    if (m >= n) {
      EXPECT_THAT(error_of([&] { backend_->orthonormal_columns(spoilt()); }),
                  testing::HasSubstr("matrix 2 of"));
    }
  }
  EXPECT_GT(cusolver().svd, 0);
  EXPECT_GT(cusolver().reflections, 0);
  EXPECT_EQ(cusolver().met_nan, 0);
}

TEST_F(FactorsOnCuda, WhatDidNotConvergeIsAnError) {
  const Tensor a = matrices({6, 6}), v = device({6, 6}), w = device({6}), vt = device({6, 6});
  cusolver().next_info = 3;
  EXPECT_THAT(error_of([&] { backend_->eigh(a, v, w); }),
              testing::StartsWith("the eigendecomposition of a matrix [6, 6] did not converge"));
  cusolver().next_info = 3;
  EXPECT_THAT(error_of([&] {
                backend_->svd(matrices({6, 6}), v, w, vt);
              }),
              testing::StartsWith("the singular value decomposition of a matrix [6, 6] did not converge"));
  cusolver().next_info = 2;
  EXPECT_THAT(error_of([&] {
                backend_->eigh(matrices({4, 6, 6}), device({4, 6, 6}), device({4, 6}));
              }),
              testing::StartsWith("the eigendecomposition of matrix 3 of [4, 6, 6] did not converge"));
  cusolver().next_info = -4;
  EXPECT_THROW(backend_->orthonormal_columns(matrices({6, 6})), std::logic_error);
  backend_->eigh(a, v, w);  // and goes on
}

TEST_F(FactorsOnCuda, TakeTheMemoryOfThePlanAndKeepIt) {
  for (const Shape& shape : {Shape{20, 20}, Shape{30, 9}, Shape{9, 30}, Shape{3, 16, 16}, Shape{20, 5, 5}}) {
    make({});
    const std::int64_t n = shape.cols(), count = shape.rank() == 3 ? shape[0] : 1, m = shape.rows() / count,
                       r = std::min(m, n);
    const Tensor a = matrices(shape), s = device(shape.rank() == 3 ? Shape{count, r} : Shape{r});
    const std::size_t before = backend_->allocated_bytes();
    backend_->svd(a, {}, s, {});
    EXPECT_EQ(backend_->allocated_bytes() - before, backend_->factor_bytes(shape)) << shape.str();
    EXPECT_EQ(backend_->factor_bytes(shape), CudaSizes().factor_bytes(shape)) << "a plan without a device";
    const Tensor again = matrices(shape), other = matrices(shape);
    const std::size_t then = backend_->allocated_bytes();
    const std::int64_t allocations = emulator::counts().allocations;
    backend_->svd(again, {}, s, {});
    if (m >= n) backend_->orthonormal_columns(other);
    EXPECT_EQ(emulator::counts().allocations, allocations);
    EXPECT_EQ(backend_->allocated_bytes(), then);
  }
}

TEST_F(FactorsOnCuda, CannotBeRecorded) {
  const Tensor a = matrices({6, 6}), v = device({6, 6}), w = device({6});
  backend_->eigh(a, v, w);
  EXPECT_THROW(backend_->record([&] { backend_->eigh(a, v, w); }), std::logic_error);
}

TEST_F(FactorsOnCuda, WithoutTheLibraryTheCpuComputesAndSaysSoOnce) {
  const auto all = [&] {
    const Tensor a = matrices({3, 12, 12}), v = device({3, 12, 12}), w = device({3, 12}),
                 tall = matrices({3, 20, 6}), u = device({3, 20, 6}), s = device({3, 6}),
                 vt = device({3, 6, 6}), q = matrices({20, 6});
    backend_->eigh(a, v, w);
    backend_->eigh(a, a, w);
    backend_->svd(tall, u, s, vt);
    backend_->svd(matrices({3, 20, 6}), {}, s, {});
    backend_->orthonormal_columns(q);
    std::vector<float> answers;
    for (const Tensor& t : {v, a, w, u, s, vt, q})
      for (const float x : host(t)) answers.push_back(x);
    return answers;
  };
  const std::vector<float> by_library = all();
  EXPECT_THAT(backend_->notes(), testing::IsEmpty());
  cusolver() = {};
  CudaOptions options;
  options.cusolver = false;
  make(options);
  const std::vector<float> by_host = all();
  EXPECT_EQ(cusolver().eigh + cusolver().eigh_batches + cusolver().svd + cusolver().reflections, 0);
  ASSERT_EQ(by_host.size(), by_library.size());
  for (std::size_t i = 0; i < by_host.size(); ++i) EXPECT_NEAR(by_host[i], by_library[i], 1e-4) << i;
  EXPECT_THAT(backend_->notes(),
              testing::ElementsAre(testing::HasSubstr("are computed on the CPU: cuSOLVER was switched off")));
  all();
  EXPECT_THAT(backend_->notes(), testing::IsEmpty());
}

}  // namespace
}  // namespace spectrain

#endif
