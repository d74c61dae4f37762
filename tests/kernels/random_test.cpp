#include <algorithm>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

class RandomTest : public KernelTest {};

std::uint64_t hash_of(const Tensor& x) {
  std::uint64_t h = 0xcbf29ce484222325ull;
  const auto* p = static_cast<const unsigned char*>(x.data);
  for (std::size_t i = 0; i < x.bytes(); ++i) h = (h ^ p[i]) * 0x100000001b3ull;
  return h;
}

// Random123's published known answers for philox4x32-10.
TEST(Philox, KnownAnswers) {
  const auto check = [](RandomKey key, std::uint64_t counter, std::vector<std::uint32_t> expected) {
    const Random4 r = philox(key, counter);
    for (std::size_t i = 0; i < 4; ++i) EXPECT_EQ(r.v[i], expected[i]) << i;
  };
  check({0, 0}, 0, {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u});
  check({~0ull, ~0ull}, ~0ull, {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu});
  // counter 243f6a88 85a308d3 13198a2e 03707344, key a4093822 299f31d0 (the digits of pi)
  check({0x299f31d0a4093822ull, 0x0370734413198a2eull}, 0x85a308d3243f6a88ull,
        {0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u});
}

// The bits every backend, machine and instruction set must give.
TEST_P(RandomTest, GoldenBits) {
  const Twin x = space({70001}, DType::f32);
  cpu().fill_uniform(x.tested, {7, stream_of("uniform")}, -2, 3);
  EXPECT_EQ(hash_of(x.tested), 2041929845590093033ull);
  cpu().fill_normal(x.tested, {7, stream_of("normal")}, 0.5f, 0.02f);
  EXPECT_EQ(hash_of(x.tested), 6851496736029760405ull);
}

TEST_P(RandomTest, AnElementDependsOnItsIndexAlone) {
  const RandomKey key{3, 9};
  for (const std::int64_t n : {1, 2, 3, 5, 255, 257, 1023, 70001}) {
    const Twin u = output({n}, DType::f32), z = output({n}, DType::f32), half = output({n}, DType::bf16);
    cpu().fill_uniform(u.tested, key, -1, 1);
    cpu().fill_normal(z.tested, key, 1, 2);
    cpu().fill_normal(half.tested, key, 1, 2);
    exact().fill_uniform(u.exact, key, -1, 1);
    exact().fill_normal(z.exact, key, 1, 2);
    for (std::int64_t i = 0; i < n; ++i) {
      const float value = normal_at(key, static_cast<std::uint64_t>(i), 1, 2);
      ASSERT_EQ(u.tested.as<float>()[i], uniform_at(key, static_cast<std::uint64_t>(i), -1, 1)) << i;
      ASSERT_EQ(z.tested.as<float>()[i], value) << i;
      ASSERT_EQ(half.tested.as<bf16>()[i].bits, bf16(value).bits) << i;
      ASSERT_EQ(element(u.tested, i), element(u.exact, i));
      ASSERT_EQ(element(z.tested, i), element(z.exact, i));
    }
  }
}

// Against the definition in float64, for cuts anywhere: normal and subnormal numbers, zeros, the largest.
TEST_P(RandomTest, RoundsStochasticallyByTheDefinition) {
  const RandomKey key{5, 11};
  for (const std::int64_t n : {1, 7, 64, 1030, 70001})
    for (const std::int64_t first : {0, 1, 6, 8, 4093}) {
      const Twin x = random({n}, DType::f32), y = output({n}, DType::bf16);
      const float special[] = {0.0f,    -0.0f,          1.0f,   -1.00390625f, 1e-40f,
                               -3e-39f, 1.1754942e-38f, 1e-30f, 3e38f};
      for (std::int64_t i = 0; i < std::min<std::int64_t>(n / 2, 9); ++i)
        x.tested.as<float>()[2 * i] = special[i];
      widen(x);
      cpu().round_stochastic(x.tested, key, first, y.tested);
      exact().round_stochastic(x.exact, key, first, y.exact);
      for (std::int64_t i = 0; i < n; ++i)
        ASSERT_EQ(element(y.tested, i), element(y.exact, i)) << i << " of " << n << " from " << first;
      const Twin again = output({n}, DType::bf16);
      cpu().round_stochastic(y.tested, {6, 6}, 0, again.tested);
      expect_same_bits(again.tested, y.tested, "bf16 numbers stay");
      // A piece of it alone.
      if (n < 64) continue;
      const Tensor from(x.tested.as<float>() + 13, DType::f32, {n - 13});
      const Twin piece = output({n - 13}, DType::bf16);
      cpu().round_stochastic(from, key, first + 13, piece.tested);
      expect_same_bits(piece.tested, Tensor(y.tested.as<bf16>() + 13, DType::bf16, {n - 13}), "a piece");
    }
  const Twin x = output({4}, DType::f32), y = output({4}, DType::bf16);
  const std::uint32_t odd[] = {0x7f800000u, 0xff800000u, 0x7fffffffu, 0xff800001u};  // infinities and NaN
  std::memcpy(x.tested.data, odd, sizeof odd);
  cpu().round_stochastic(x.tested, key, 0, y.tested);
  EXPECT_EQ(element(y.tested, 0), INFINITY);
  EXPECT_EQ(element(y.tested, 1), -INFINITY);
  EXPECT_TRUE(std::isnan(element(y.tested, 2)) && std::isnan(element(y.tested, 3)));
}

// On average the number itself: over n draws the mean of a step times a coin of probability p errs by
// sqrt(p (1-p) / n) steps, and four of those are exceeded once in 16,000 times; the draws are fixed.
TEST(StochasticRounding, IsRightOnAverage) {
  const auto cpu = make_cpu_backend();
  const std::int64_t n = 1 << 18;
  std::vector<float> x(static_cast<std::size_t>(n));
  std::vector<bf16> y(x.size());
  for (const float p : {0.1f, 0.5f, 0.93f})
    for (const float sign : {1.0f, -1.0f}) {
      const float step = 0x1p-8f, value = sign * (0.5f + p * step);
      std::fill(x.begin(), x.end(), value);
      cpu->round_stochastic(Tensor(x.data(), DType::f32, {n}), {1, 2}, 0, Tensor(y.data(), DType::bf16, {n}));
      double mean = 0;
      for (const bf16 b : y) mean += static_cast<double>(static_cast<float>(b)) / static_cast<double>(n);
      EXPECT_NEAR(mean, value, 4 * std::sqrt(p * (1 - p) / static_cast<double>(n)) * step);
    }
}

// sup |F_n - F| of n independent draws exceeds 1.95 / sqrt(n) once in a thousand times; the draws are fixed,
// so this either always passes or never.
double kolmogorov_smirnov(std::vector<double> x, double (*distribution)(double)) {
  std::sort(x.begin(), x.end());
  const double n = static_cast<double>(x.size());
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double f = distribution(x[i]), k = static_cast<double>(i);
    worst = std::max({worst, f - k / n, (k + 1) / n - f});
  }
  return worst * std::sqrt(n);
}

TEST(RandomDistribution, UniformAndNormal) {
  const auto cpu = make_cpu_backend();
  const std::int64_t n = 1 << 20;
  std::vector<float> x(static_cast<std::size_t>(n));
  const Tensor t(x.data(), DType::f32, {n});
  const double limit =
      4 / std::sqrt(static_cast<double>(n));  // four standard errors of a mean of unit variance
  cpu->fill_uniform(t, {1, 1}, 0, 1);
  EXPECT_LT(kolmogorov_smirnov({x.begin(), x.end()}, [](double v) { return v; }), 1.95);

  cpu->fill_normal(t, {1, 2}, 0, 1);
  EXPECT_LT(
      kolmogorov_smirnov({x.begin(), x.end()}, [](double v) { return 0.5 * std::erfc(-v / std::sqrt(2.0)); }),
      1.95);
  double moments[5] = {}, neighbours = 0, pairs = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    double power = 1;
    for (double& m : moments) {
      m += power / static_cast<double>(n);
      power *= static_cast<double>(x[i]);
    }
    if (i + 1 < x.size())
      neighbours += static_cast<double>(x[i]) * static_cast<double>(x[i + 1]) / static_cast<double>(n);
    // Both numbers of one pair share a radius: their squares would show a wrong angle or a wrong radius.
    if (i % 2 == 0)
      pairs += (static_cast<double>(x[i]) * static_cast<double>(x[i]) - 1) *
               (static_cast<double>(x[i + 1]) * static_cast<double>(x[i + 1]) - 1) /
               static_cast<double>(n / 2);
  }
  EXPECT_NEAR(moments[1], 0, limit);
  EXPECT_NEAR(moments[2], 1, limit * std::sqrt(2.0));
  EXPECT_NEAR(moments[3], 0, limit * std::sqrt(15.0));
  EXPECT_NEAR(moments[4], 3, limit * std::sqrt(96.0));
  EXPECT_NEAR(neighbours, 0, limit);
  EXPECT_NEAR(pairs, 0, limit * 2 * std::sqrt(2.0));
}

// Against the formula in double, over the ends of both words.
TEST(RandomDistribution, NormalPairIsBoxMuller) {
  const double quarter = std::acos(-1.0) / 2;
  double worst = 0;
  for (std::uint32_t i = 0; i < 200000; ++i) {
    const Random4 r = philox({5, 5}, i);
    const std::uint32_t w0 = i < 2000 ? i << 8 : i < 4000 ? ~((i - 2000) << 8) : r.v[0], w1 = r.v[1];
    const double radius = std::sqrt(-2 * std::log(((w0 >> 8) + 1) * 0x1p-24));
    const double angle = quarter * ((w1 >> 30) + (((w1 >> 8) & 0x3fffff) + 0.5) * 0x1p-22 - 0.5);
    const NormalPair z = normal_pair(w0, w1);
    const double error = std::hypot(static_cast<double>(z.a) - radius * std::cos(angle),
                                    static_cast<double>(z.b) - radius * std::sin(angle));
    if (radius > 0) worst = std::max(worst, error / radius);
    if (radius == 0) {
      EXPECT_EQ(std::abs(z.a) + std::abs(z.b), 0);
    }
  }
  EXPECT_LT(worst, 2.5 * 0x1p-23);
}

SPECTRAIN_KERNEL_TEST_ALL(RandomTest);

}  // namespace
}  // namespace spectrain
