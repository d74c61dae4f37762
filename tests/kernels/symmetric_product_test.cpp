#include <algorithm>
#include <string>
#include <vector>

#include "tests/kernels/kernel_cases.h"

// Symmetric products of optimizers on every backend: against float64, exactly symmetric, and the same bits in
// a batch as alone. Which sizes meet which path of a GPU: multiples of 8 in 16 bits the tensor cores, of
// Hopper or of what came before it; everything else plain multiplications.

namespace spectrain {
namespace {

struct Types {
  DType in, out;
};
struct Size {
  std::int64_t m, k;
};

std::string text(Shape shape, Types t) {
  return shape.str() + " " + std::string(name_of(t.in)) + " -> " + std::string(name_of(t.out));
}

class SymmetricProductTest : public KernelTest {
 protected:
  std::vector<Types> types() const {
    std::vector<Types> all = {
        {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}};
    if (!on_cpu()) {
      all.push_back({DType::f16, DType::f16});
      all.push_back({DType::f16, DType::f32});
    }
    return all;
  }

  // A device without the newest generation's kernels; null on the CPU and where there is no GPU.
  std::unique_ptr<Backend> older() const {
    if (on_cpu()) return nullptr;
    std::string reason;
    CudaOptions options;
    options.most_capability = 80;
    return make_cuda(options, reason);
  }

  Twin random_symmetric(std::int64_t batch, std::int64_t m, DType dtype) {
    const Twin t = random({batch, m, m}, dtype);
    for (std::int64_t n = 0; n < batch; ++n) {
      const Tensor d = t.tested.matrix(n);
      const std::size_t size = size_of(dtype);
      auto* bytes = static_cast<std::byte*>(d.data);
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < i; ++j)
          std::copy_n(bytes + static_cast<std::size_t>(i * m + j) * size, size,
                      bytes + static_cast<std::size_t>(j * m + i) * size);
    }
    widen(t);
    return t;
  }

  static void expect_symmetric(const Tensor& c, const std::string& what) {
    const std::int64_t m = c.cols();
    for (std::int64_t n = 0; n < c.rows() / m; ++n)
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < i; ++j)
          ASSERT_EQ(element(c, (n * m + i) * m + j), element(c, (n * m + j) * m + i))
              << what << " " << n << ", " << i << ", " << j;
  }

  enum class Addend { none, other, result };
  void check(Backend& backend, std::int64_t batch, Size z, Types types, Addend addend) {
    const std::string what = text({batch, z.m, z.k}, types) + ", addend " +
                             std::to_string(static_cast<int>(addend)) + " on " + backend.description();
    const Twin a = random({batch, z.m, z.k}, types.in);
    const Twin d = random_symmetric(batch, z.m, types.out);
    const Twin c = addend == Addend::result ? d : output({batch, z.m, z.m}, types.out);
    const float beta = addend == Addend::none ? 0 : -1.5f;
    const Tensor added = addend == Addend::none ? Tensor() : d.tested;
    exact().symmetric_product(a.exact, 0.75f, addend == Addend::none ? Tensor() : d.exact, beta, c.exact);
    backend.symmetric_product(a.tested, 0.75f, added, beta, c.tested);
    expect_close(c, 2, static_cast<double>(z.k), what);
    expect_symmetric(c.tested, what);
  }
};

TEST_P(SymmetricProductTest, EqualsFloat64AndIsExactlySymmetric) {
  for (const Types& t : types())
    for (const Size& z : {Size{8, 8}, {20, 300}, {64, 64}, {100, 33}, {129, 48}, {136, 200}, {256, 304}})
      for (const Addend addend : {Addend::none, Addend::other, Addend::result}) {
        if (addend == Addend::other && z.m != 136) continue;
        check(cpu(), z.m > 200 ? 1 : 2, z, t, addend);
      }
}

TEST_P(SymmetricProductTest, TensorCoresBeforeHopper) {
  const auto backend = older();
  if (!backend) GTEST_SKIP() << "about GPUs alone";
  for (const Types& t : types())
    for (const Size& z : {Size{8, 16}, {136, 200}, {264, 64}})
      for (const Addend addend : {Addend::none, Addend::result}) check(*backend, 2, z, t, addend);
}

// The bits of a matrix depend neither on its neighbours nor on the number of blocks.
TEST_P(SymmetricProductTest, BatchEqualsSingle) {
  const auto one_block = on_cpu() ? nullptr : tested_with_one_block();
  for (const Types& t : types())
    for (const Size& z : {Size{20, 36}, {136, 72}}) {
      const std::int64_t batch = 3;
      const Twin a = random({batch, z.m, z.k}, t.in), d = random_symmetric(batch, z.m, t.out);
      const Twin together = output({batch, z.m, z.m}, t.out), alone = output({batch, z.m, z.m}, t.out);
      cpu().symmetric_product(a.tested, 1, d.tested, 0.5f, together.tested);
      for (std::int64_t i = 0; i < batch; ++i)
        cpu().symmetric_product(a.tested.matrix(i), 1, d.tested.matrix(i), 0.5f, alone.tested.matrix(i));
      expect_same_bits(together.tested, alone.tested, "batch and single");
      if (!one_block) continue;
      const Twin narrow = output({batch, z.m, z.m}, t.out);
      one_block->symmetric_product(a.tested, 1, d.tested, 0.5f, narrow.tested);
      expect_same_bits(together.tested, narrow.tested, "many blocks and one");
    }
}

// Circulant matrices commute, and whole numbers make every product of them exact: a . b^T would not be a . b,
// nor a . a, had a kernel taken the wrong operand, were they not symmetric too; these are.
TEST_P(SymmetricProductTest, CommutingProductIsExactOnWholeNumbers) {
  const auto before_hopper = older();
  for (const Types& t : types())
    for (const std::int64_t m : {8, 21, 136}) {
      std::vector<double> a, b, d, wanted;
      const auto circulant = [m](std::int64_t i, std::int64_t j, std::int64_t salt) {
        const std::int64_t apart = std::min((i - j + m) % m, (j - i + m) % m);
        return static_cast<double>((apart * salt + salt) % 3 - 1);
      };
      for (std::int64_t i = 0; i < m; ++i)
        for (std::int64_t j = 0; j < m; ++j) {
          a.push_back(circulant(i, j, 5));
          b.push_back(circulant(i, j, 7));
          d.push_back(circulant(i, j, 4));
          double sum = 0;
          for (std::int64_t k = 0; k < m; ++k) sum += circulant(i, k, 5) * circulant(k, j, 7);
          wanted.push_back(sum - 2 * d.back());
        }
      const Twin left = values({m, m}, t.in, a), right = values({m, m}, t.in, b),
                 add = values({m, m}, t.out, d);
      for (Backend* const backend : {&cpu(), before_hopper.get()}) {
        if (!backend) continue;
        const Twin c = output({m, m}, t.out);
        backend->commuting_product(left.tested, right.tested, 1, add.tested, -2, c.tested);
        for (std::int64_t i = 0; i < m * m; ++i)
          ASSERT_EQ(element(c.tested, i), wanted[static_cast<std::size_t>(i)])
              << text({m, m}, t) << ", element " << i;
      }
    }
}

TEST_P(SymmetricProductTest, CommutingProductInPlaceOfItsAddend) {
  for (const Types& t : types()) {
    const Twin a = random_symmetric(2, 24, t.in);
    const Twin sum = random_symmetric(2, 24, t.out), wanted = random_symmetric(2, 24, t.out);
    exact().copy(sum.exact, wanted.exact);
    exact().commuting_product(a.exact, a.exact, 2, sum.exact, 0.25f, wanted.exact);
    cpu().copy(sum.tested, wanted.tested);
    cpu().commuting_product(a.tested, a.tested, 2, wanted.tested, 0.25f, wanted.tested);
    expect_close(wanted, 2, 24, text({2, 24, 24}, t));
  }
}

TEST_P(SymmetricProductTest, AddIdentity) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    if (dtype == DType::f16 && on_cpu()) continue;
    const Twin c = random({3, 37, 37}, dtype);
    exact().add_identity(c.exact, 2.5f);
    cpu().add_identity(c.tested, 2.5f);
    expect_close(c, 1, 1, "add_identity");
  }
}

TEST_P(SymmetricProductTest, MatricesAtOnce) {
  for (const Shape& shape :
       {Shape{8, 8}, Shape{64, 256}, Shape{768, 768}, Shape{3072, 768}, Shape{8192, 8192}}) {
    const std::int64_t n = cpu().matrices_at_once(shape);
    if (on_cpu()) {
      EXPECT_EQ(n, 1);
    } else {
      EXPECT_GE(n, 1);
      EXPECT_LE(n, 64);
      EXPECT_EQ(n, cpu().matrices_at_once({shape[1], shape[0]}));
      EXPECT_LE(static_cast<double>(n) * static_cast<double>(shape.numel()),
                std::max(45e6, 1.0 * static_cast<double>(shape.numel())));
    }
  }
}

TEST_P(SymmetricProductTest, RefusesWhatDoesNotFit) {
  const Twin a = random({8, 16}, DType::f32), wrong = output({9, 9}, DType::f32),
             c = output({8, 8}, DType::f32), rounded = output({8, 8}, DType::bf16);
  EXPECT_THROW(cpu().symmetric_product(a.tested, 1, {}, 0, wrong.tested), std::logic_error);
  EXPECT_THROW(cpu().symmetric_product(a.tested, 1, {}, 0, rounded.tested), std::logic_error);
  EXPECT_THROW(cpu().symmetric_product(a.tested, 1, rounded.tested, 1, c.tested), std::logic_error);
}

SPECTRAIN_KERNEL_TEST_ALL(SymmetricProductTest);

}  // namespace
}  // namespace spectrain
