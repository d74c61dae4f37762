#include <vector>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

const std::vector<Softcap> kCaps = {
    {},
    {.kind = Softcap::Kind::tanh, .cap = 15},
    {.kind = Softcap::Kind::sigmoid, .cap = 30, .divisor = 7.5, .offset = 0},
    {.kind = Softcap::Kind::sigmoid, .cap = 23, .divisor = 7.5, .offset = 5},
    {.kind = Softcap::Kind::rational, .cap = 15},
};
constexpr double kEps32 = 0x1p-24;

struct Size {
  std::int64_t rows, vocab, columns;
};
struct DTypes {
  DType logits, dlogits;
};

class CrossEntropyTest : public KernelTest {
 protected:
  // The CPU makes logits in f32 alone.
  std::vector<DTypes> dtypes() const {
    std::vector<DTypes> list = {{DType::f32, DType::f32}, {DType::f32, DType::bf16}};
    if (!on_cpu()) list.insert(list.end(), {{DType::bf16, DType::bf16}, {DType::bf16, DType::f32}});
    return list;
  }
  Twin uniform(Shape shape, DType dtype, float magnitude) {
    const Twin t = space(shape, dtype);
    cpu().fill_uniform(t.tested, {7, static_cast<std::uint64_t>(shape.numel())}, -magnitude, magnitude);
    widen(t);
    return t;
  }
  // Random, the second of three or more ignored, the last one the last word.
  Twin targets(std::int64_t rows, std::int64_t vocab) {
    const Twin t = random_tokens({rows}, vocab);
    if (rows > 2) set(t, 1, -1);
    set(t, rows - 1, static_cast<std::int32_t>(vocab - 1));
    return t;
  }
  static void set(const Twin& t, std::int64_t i, std::int32_t value) {
    t.tested.as<std::int32_t>()[i] = t.exact.as<std::int32_t>()[i] = value;
  }
  static void set_logit(const Tensor& t, std::int64_t i, float value) {
    if (t.dtype == DType::f32)
      t.as<float>()[i] = value;
    else
      t.as<bf16>()[i] = bf16(value);
  }
  // Every element within `walk` (float32 sums), one rounding to the dtype, and `factors` roundings in
  // float32.
  static void expect_within(const Twin& t, double walk, const char* what, int factors = 0) {
    const double eps = epsilon(t.tested.dtype) / 2 + factors * kEps32;
    for (std::int64_t i = 0; i < t.exact.numel(); ++i) {
      const double got = element(t.tested, i), wanted = element(t.exact, i);
      const double bound = walk + 1.01 * eps * std::abs(wanted);
      if (!(std::abs(got - wanted) <= bound)) {
        ADD_FAILURE() << what << " element " << i << " of " << t.tested.shape.str() << ": " << got
                      << ", wanted " << wanted << ", off by " << got - wanted << ", bound " << bound;
        return;
      }
    }
  }
};

TEST_P(CrossEntropyTest, EqualsTheReferenceInValueAndGradient) {
  for (const Size& size :
       std::vector<Size>{{1, 1, 1}, {3, 2, 5}, {5, 33, 33}, {70, 1000, 1024}, {4, 5001, 5001}})
    for (const Softcap& cap : kCaps)
      for (const DTypes& dtype : dtypes()) {
        SCOPED_TRACE("vocab " + std::to_string(size.vocab) + " cap " +
                     std::to_string(static_cast<int>(cap.kind)) + " " + std::string(name_of(dtype.logits)) +
                     " to " + std::string(name_of(dtype.dlogits)));
        const Shape shape{size.rows, size.columns};
        const Twin logits = uniform(shape, dtype.logits, 12), target = targets(size.rows, size.vocab);
        const Twin losses = output({size.rows}, DType::f32), dlogits = output(shape, dtype.dlogits);
        const double scale = 0.25;
        cpu().cross_entropy(logits.tested, target.tested, size.vocab, cap, scale, losses.tested,
                            dlogits.tested);
        exact().cross_entropy(logits.exact, target.exact, size.vocab, cap, scale, losses.exact,
                              dlogits.exact);
        // Logits of magnitude L are known to eps L; the sums add a walk over vocab terms.
        const double walk = 4 * kEps32 * (30 + std::sqrt(static_cast<double>(size.vocab)));
        expect_within(losses, walk, "losses");
        expect_within(dlogits, scale * walk * std::max(1.0, cap.cap / cap.divisor), "dlogits");
        if (dtype.logits != dtype.dlogits) continue;
        cpu().cross_entropy(logits.tested, target.tested, size.vocab, cap, scale, losses.tested,
                            logits.tested);
        expect_same_bits(logits.tested, dlogits.tested, "in place");
      }
}

// Two whose rows are just what a block may have of shared memory without asking (before what larger ones ask
// for), GPT-2's, bare and padded, and one whose rows do not fit: the padding holds garbage and must not
// matter.
TEST_P(CrossEntropyTest, TakesRealVocabularies) {
  for (const Size& size : std::vector<Size>{
           {2, 24575, 24576}, {2, 12287, 12288}, {3, 50257, 50257}, {3, 50257, 50304}, {2, 131069, 131072}})
    for (const Softcap& cap : {kCaps[0], kCaps[4]})
      for (const DTypes& dtype : dtypes()) {
        if (dtype.logits != dtype.dlogits) continue;
        const Shape shape{size.rows, size.columns};
        const Twin logits = uniform(shape, dtype.logits, 4), target = targets(size.rows, size.vocab);
        const Twin losses = output({size.rows}, DType::f32), dlogits = output(shape, dtype.dlogits);
        exact().cross_entropy(logits.exact, target.exact, size.vocab, cap, 1, losses.exact, dlogits.exact);
        for (std::int64_t r = 0; r < size.rows; ++r)
          for (std::int64_t i = size.vocab; i < size.columns; ++i)
            set_logit(logits.tested, r * size.columns + i, NAN);
        cpu().cross_entropy(logits.tested, target.tested, size.vocab, cap, 1, losses.tested, dlogits.tested);
        const double walk = 4 * kEps32 * std::sqrt(static_cast<double>(size.vocab));
        expect_within(losses, walk, "losses");
        // Weights are near 1 / vocab; the slope of the cap at the target is the cube of a rounded root.
        expect_within(dlogits, walk / static_cast<double>(size.vocab), "dlogits", 8);
        for (std::int64_t r = 0; r < size.rows; ++r)
          for (std::int64_t i = size.vocab; i < size.columns; ++i)
            ASSERT_EQ(element(dlogits.tested, r * size.columns + i), 0);
        cpu().cross_entropy(logits.tested, target.tested, size.vocab, cap, 1, losses.tested, logits.tested);
        expect_same_bits(logits.tested, dlogits.tested, "in place");
      }
}

// An own loss in plain loops; the gradient by differences of it.
double loss(const std::vector<double>& z, std::size_t target, const Softcap& cap) {
  const auto capped = [&](double x) {
    switch (cap.kind) {
      case Softcap::Kind::none:
        return x;
      case Softcap::Kind::tanh:
        return cap.cap * std::tanh(x / cap.cap);
      case Softcap::Kind::sigmoid:
        return cap.cap / (1 + std::exp(-(x + cap.offset) / cap.divisor));
      case Softcap::Kind::rational:
        return x * cap.cap / std::sqrt(x * x + cap.cap * cap.cap);
    }
    return x;
  };
  double sum = 0;
  for (double x : z) sum += std::exp(capped(x));
  return std::log(sum) - capped(z[target]);
}

TEST_P(CrossEntropyTest, GradientEqualsFiniteDifferences) {
  for (const Softcap& cap : kCaps) {
    const Twin logits = uniform({1, 9}, DType::f32, 20), target = random_tokens({1}, 9);
    const Twin losses = output({1}, DType::f32), dlogits = output({1, 9}, DType::f32);
    set(target, 0, 4);
    cpu().cross_entropy(logits.tested, target.tested, 9, cap, 1, losses.tested, dlogits.tested);
    std::vector<double> z;
    for (std::int64_t i = 0; i < 9; ++i) z.push_back(element(logits.tested, i));
    EXPECT_NEAR(element(losses.tested, 0), loss(z, 4, cap), 64 * kEps32 * 20);
    for (std::size_t i = 0; i < 9; ++i) {
      const double here = z[i];
      z[i] = here + 1e-4;
      const double above = loss(z, 4, cap);
      z[i] = here - 1e-4;
      const double below = loss(z, 4, cap);
      z[i] = here;
      ASSERT_NEAR(element(dlogits.tested, static_cast<std::int64_t>(i)), (above - below) / 2e-4,
                  3e-6 * std::max(1.0, cap.cap / cap.divisor));
    }
  }
}

TEST_P(CrossEntropyTest, LogitsFarOutNeitherOverflowNorVanish) {
  std::int32_t target = 0;
  const Tensor first(&target, DType::i32, {1});
  for (const Softcap& cap : kCaps) {
    std::vector<float> z = {1e30f, -1e30f, 0, 90, -INFINITY, -90};
    std::vector<float> d(6), l(1);
    cpu().cross_entropy(Tensor(z.data(), DType::f32, {1, 6}), first, 6, cap, 1,
                        Tensor(l.data(), DType::f32, {1}), Tensor(d.data(), DType::f32, {1, 6}));
    ASSERT_TRUE(std::isfinite(l[0])) << static_cast<int>(cap.kind);
    ASSERT_GE(l[0], 0);
    for (float x : d) ASSERT_TRUE(std::isfinite(x)) << static_cast<int>(cap.kind);
  }
  // Nearly certain: the gradient at the target keeps its digits.
  std::vector<float> z = {20, 0}, d(2), l(1);
  cpu().cross_entropy(Tensor(z.data(), DType::f32, {1, 2}), first, 2, {}, 1,
                      Tensor(l.data(), DType::f32, {1}), Tensor(d.data(), DType::f32, {1, 2}));
  EXPECT_NEAR(d[0] / -std::exp(-20.0), 1, 1e-5);
  EXPECT_NEAR(d[1] / std::exp(-20.0), 1, 1e-5);
  EXPECT_NEAR(l[0] / std::log1p(std::exp(-20.0)), 1, 1e-5);
}

TEST_P(CrossEntropyTest, ANaNLogitGivesANaNLoss) {
  for (const Softcap& cap : kCaps)
    for (const std::int64_t where : {0, 17, 2999}) {
      const Twin logits = uniform({2, 3000}, DType::f32, 1), target = targets(2, 3000);
      const Twin losses = output({2}, DType::f32), dlogits = output({2, 3000}, DType::f32);
      set_logit(logits.tested, where, NAN);
      cpu().cross_entropy(logits.tested, target.tested, 3000, cap, 1, losses.tested, dlogits.tested);
      EXPECT_TRUE(std::isnan(element(losses.tested, 0)));
      EXPECT_TRUE(std::isfinite(element(losses.tested, 1)));
      set(target, 0, -1);  // ignored rows stay zero whatever they hold
      cpu().cross_entropy(logits.tested, target.tested, 3000, cap, 1, losses.tested, dlogits.tested);
      EXPECT_EQ(element(losses.tested, 0), 0);
      EXPECT_EQ(element(dlogits.tested, where), 0);
    }
}

TEST_P(CrossEntropyTest, ScalesTheGradientShiftsAndRepeatsExactly) {
  const Twin logits = uniform({6, 777}, DType::f32, 5), target = targets(6, 777);
  const Twin once = output({6, 777}, DType::f32), twice = output({6, 777}, DType::f32);
  const Twin losses = output({6}, DType::f32), again = output({6}, DType::f32);
  cpu().cross_entropy(logits.tested, target.tested, 777, {}, 1, losses.tested, once.tested);
  cpu().cross_entropy(logits.tested, target.tested, 777, {}, 2, again.tested, twice.tested);
  expect_same_bits(losses.tested, again.tested, "losses");
  for (std::int64_t i = 0; i < once.tested.numel(); ++i)
    ASSERT_EQ(element(twice.tested, i), 2 * element(once.tested, i));
  cpu().cross_entropy(logits.tested, target.tested, 777, {}, 1, again.tested, {});
  expect_same_bits(losses.tested, again.tested, "with and without the gradient");
  for (std::int64_t i = 0; i < logits.tested.numel(); ++i) logits.tested.as<float>()[i] += 64;
  cpu().cross_entropy(logits.tested, target.tested, 777, {}, 1, again.tested, {});
  for (std::int64_t r = 0; r < 6; ++r)
    EXPECT_NEAR(element(losses.tested, r), element(again.tested, r), 4 * 70 * kEps32);
}

TEST_P(CrossEntropyTest, FewBlocksEqualManyBitForBit) {
  if (on_cpu()) GTEST_SKIP() << "a processor has no blocks";
  const auto one = tested_with_one_block();
  for (const DTypes& dtype : dtypes()) {
    const Twin logits = uniform({9, 2008}, dtype.logits, 5), target = targets(9, 2000);
    const Twin losses = output({9}, DType::f32), others = output({9}, DType::f32);
    const Twin a = output({9, 2008}, dtype.dlogits), b = output({9, 2008}, dtype.dlogits);
    cpu().cross_entropy(logits.tested, target.tested, 2000, kCaps[1], 1, losses.tested, a.tested);
    one->cross_entropy(logits.tested, target.tested, 2000, kCaps[1], 1, others.tested, b.tested);
    expect_same_bits(losses.tested, others.tested, "losses");
    expect_same_bits(a.tested, b.tested, "dlogits");
  }
}

TEST_P(CrossEntropyTest, RefusesTargetsOutsideTheVocabulary) {
  const Twin logits = uniform({2, 8}, DType::f32, 1), losses = output({2}, DType::f32);
  const Twin dlogits = output({2, 8}, DType::f32);
  for (std::int32_t bad : {6, 7, 8, -2}) {
    std::vector<std::int32_t> targets = {0, bad};
    const Tensor t(targets.data(), DType::i32, {2});
    const auto run = [&] { cpu().cross_entropy(logits.tested, t, 6, {}, 1, losses.tested, dlogits.tested); };
    if (on_cpu()) {
      EXPECT_THROW(run(), std::logic_error) << bad;
      continue;
    }
    // The host does not see them: they become NaN, which nobody overlooks.
    run();
    EXPECT_TRUE(std::isfinite(element(losses.tested, 0)));
    EXPECT_TRUE(std::isnan(element(losses.tested, 1)));
    for (std::int64_t i = 0; i < 8; ++i) {
      EXPECT_TRUE(std::isfinite(element(dlogits.tested, i)));
      EXPECT_TRUE(std::isnan(element(dlogits.tested, 8 + i)));
    }
  }
  std::vector<std::int32_t> targets = {0, 1};
  const Tensor t(targets.data(), DType::i32, {2});
  EXPECT_THROW(cpu().cross_entropy(logits.tested, t, 9, {}, 1, losses.tested, {}), std::logic_error);
  EXPECT_THROW(cpu().cross_entropy(logits.exact, t, 8, {}, 1, losses.tested, {}), std::logic_error);
}

SPECTRAIN_KERNEL_TEST_ALL(CrossEntropyTest);

}  // namespace
}  // namespace spectrain
