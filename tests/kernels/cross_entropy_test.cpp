#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/kernels/twin.h"

namespace spectrain {
namespace {

const std::vector<Softcap> kCaps = {
    {},
    {.kind = Softcap::Kind::tanh, .cap = 15},
    {.kind = Softcap::Kind::sigmoid, .cap = 30, .divisor = 7.5, .offset = 0},
    {.kind = Softcap::Kind::sigmoid, .cap = 23, .divisor = 7.5, .offset = 5},
    {.kind = Softcap::Kind::rational, .cap = 15},
};

struct Targets {
  std::vector<std::int32_t> values;
  explicit Targets(std::int64_t rows, std::int64_t vocab) {
    std::mt19937 random(5);
    for (std::int64_t r = 0; r < rows; ++r)
      values.push_back(static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocab)));
    if (rows > 2) values[1] = -1;
    values.back() = static_cast<std::int32_t>(vocab - 1);
  }
  Tensor tensor() { return Tensor(values.data(), DType::i32, {static_cast<std::int64_t>(values.size())}); }
};

struct Size {
  std::int64_t rows, vocab, columns;
};

TEST(CrossEntropy, EqualsTheReferenceInValueAndGradient) {
  ReferenceBackend reference;
  for (const Size& size :
       std::vector<Size>{{1, 1, 1}, {3, 2, 5}, {5, 33, 33}, {70, 1000, 1024}, {4, 5001, 5001}})
    for (const Softcap& cap : kCaps)
      for (DType dtype : {DType::f32, DType::bf16}) {
        SCOPED_TRACE("vocab " + std::to_string(size.vocab) + " cap " +
                     std::to_string(static_cast<int>(cap.kind)) + " " + std::string(name_of(dtype)));
        Twin logits(DType::f32, size.rows, size.columns, 3, 12);
        Targets targets(size.rows, size.vocab);
        Twin losses(DType::f32, size.rows, 1), dlogits(dtype, size.rows, size.columns);
        const double scale = 0.25;
        reference.cross_entropy(logits.wide(), targets.tensor(), size.vocab, cap, scale, losses.wide(),
                                dlogits.wide());
        // Logits of magnitude L are known to eps L; the sums add a walk over vocab terms.
        const double walk = 4 * kEps32 * (30 + std::sqrt(static_cast<double>(size.vocab)));
        on_every_cpu([&](Backend& cpu) {
          cpu.cross_entropy(logits.tensor(), targets.tensor(), size.vocab, cap, scale, losses.tensor(),
                            dlogits.tensor());
          losses.expect_close(walk, "losses");
          dlogits.expect_close(scale * walk * std::max(1.0, cap.cap / cap.divisor), "dlogits");
          if (dtype != DType::f32) return;
          Twin same = logits;  // in place
          cpu.cross_entropy(same.tensor(), targets.tensor(), size.vocab, cap, scale, losses.tensor(),
                            same.tensor());
          EXPECT_EQ(same.bytes(), dlogits.bytes());
        });
      }
}

// The vocabulary of GPT-2, bare and padded: the padding holds garbage and must not matter.
TEST(CrossEntropy, TakesTheRealVocabulary) {
  ReferenceBackend reference;
  for (const Softcap& cap : {kCaps[0], kCaps[4]})
    for (std::int64_t columns : {50257, 50304}) {
      Twin logits(DType::f32, 3, columns, 3, 4), losses(DType::f32, 3, 1), dlogits(DType::f32, 3, columns);
      Targets targets(3, 50257);
      reference.cross_entropy(logits.wide(), targets.tensor(), 50257, cap, 1, losses.wide(), dlogits.wide());
      for (std::int64_t r = 0; r < 3; ++r)
        for (std::int64_t i = 50257; i < columns; ++i) logits.set(r * columns + i, NAN);
      const double walk = 4 * kEps32 * std::sqrt(50257.0);
      on_every_cpu([&](Backend& cpu) {
        cpu.cross_entropy(logits.tensor(), targets.tensor(), 50257, cap, 1, losses.tensor(),
                          dlogits.tensor());
        losses.expect_close(walk, "losses");
        // Weights are near 1 / vocab; the slope of the cap at the target is the cube of a rounded root.
        dlogits.expect_close(walk / 50257, "dlogits", 8);
        for (std::int64_t r = 0; r < 3; ++r)
          for (std::int64_t i = 50257; i < columns; ++i) ASSERT_EQ(dlogits.get(r * columns + i), 0);
      });
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

TEST(CrossEntropy, GradientEqualsFiniteDifferences) {
  auto cpu = make_cpu_backend({.threads = 1});
  for (const Softcap& cap : kCaps) {
    Twin logits(DType::f32, 1, 9, 7, 20), losses(DType::f32, 1, 1), dlogits(DType::f32, 1, 9);
    std::int32_t target = 4;
    cpu->cross_entropy(logits.tensor(), Tensor(&target, DType::i32, {1}), 9, cap, 1, losses.tensor(),
                       dlogits.tensor());
    std::vector<double> z;
    for (std::int64_t i = 0; i < 9; ++i) z.push_back(logits.get(i));
    EXPECT_NEAR(losses.get(0), loss(z, 4, cap), 64 * kEps32 * 20);
    for (std::size_t i = 0; i < 9; ++i) {
      const double here = z[i];
      z[i] = here + 1e-4;
      const double above = loss(z, 4, cap);
      z[i] = here - 1e-4;
      const double below = loss(z, 4, cap);
      z[i] = here;
      ASSERT_NEAR(dlogits.get(static_cast<std::int64_t>(i)), (above - below) / 2e-4,
                  3e-6 * std::max(1.0, cap.cap / cap.divisor));
    }
  }
}

TEST(CrossEntropy, LogitsFarOutNeitherOverflowNorVanish) {
  on_every_cpu([&](Backend& cpu) {
    for (const Softcap& cap : kCaps) {
      std::vector<float> z = {1e30f, -1e30f, 0, 90, -INFINITY, -90};
      std::vector<float> d(6), l(1);
      std::int32_t target = 0;
      cpu.cross_entropy(Tensor(z.data(), DType::f32, {1, 6}), Tensor(&target, DType::i32, {1}), 6, cap, 1,
                        Tensor(l.data(), DType::f32, {1}), Tensor(d.data(), DType::f32, {1, 6}));
      ASSERT_TRUE(std::isfinite(l[0])) << static_cast<int>(cap.kind);
      ASSERT_GE(l[0], 0);
      for (float x : d) ASSERT_TRUE(std::isfinite(x)) << static_cast<int>(cap.kind);
    }
    // Nearly certain: the gradient at the target keeps its digits.
    std::vector<float> z = {20, 0}, d(2), l(1);
    std::int32_t target = 0;
    cpu.cross_entropy(Tensor(z.data(), DType::f32, {1, 2}), Tensor(&target, DType::i32, {1}), 2, {}, 1,
                      Tensor(l.data(), DType::f32, {1}), Tensor(d.data(), DType::f32, {1, 2}));
    EXPECT_NEAR(d[0] / -std::exp(-20.0), 1, 1e-5);
    EXPECT_NEAR(d[1] / std::exp(-20.0), 1, 1e-5);
    EXPECT_NEAR(l[0] / std::log1p(std::exp(-20.0)), 1, 1e-5);
  });
}

TEST(CrossEntropy, ANaNLogitGivesANaNLoss) {
  on_every_cpu([&](Backend& cpu) {
    for (const Softcap& cap : kCaps)
      for (std::int64_t where : {0, 17, 2999}) {
        Twin logits(DType::f32, 2, 3000, 1), losses(DType::f32, 2, 1), dlogits(DType::f32, 2, 3000);
        logits.set(where, NAN);
        Targets targets(2, 3000);
        cpu.cross_entropy(logits.tensor(), targets.tensor(), 3000, cap, 1, losses.tensor(), dlogits.tensor());
        EXPECT_TRUE(std::isnan(losses.get(0)));
        EXPECT_TRUE(std::isfinite(losses.get(1)));
        targets.values[0] = -1;  // ignored rows stay zero whatever they hold
        cpu.cross_entropy(logits.tensor(), targets.tensor(), 3000, cap, 1, losses.tensor(), dlogits.tensor());
        EXPECT_EQ(losses.get(0), 0);
        EXPECT_EQ(dlogits.get(where), 0);
      }
  });
}

TEST(CrossEntropy, ScalesTheGradientShiftsAndRepeatsExactly) {
  on_every_cpu([&](Backend& cpu) {
    Twin logits(DType::f32, 6, 777, 1, 5), losses(DType::f32, 6, 1), once(DType::f32, 6, 777), twice = once;
    Targets targets(6, 777);
    cpu.cross_entropy(logits.tensor(), targets.tensor(), 777, {}, 1, losses.tensor(), once.tensor());
    const Twin first = losses;
    cpu.cross_entropy(logits.tensor(), targets.tensor(), 777, {}, 2, losses.tensor(), twice.tensor());
    EXPECT_EQ(first.bytes(), losses.bytes());
    for (std::int64_t i = 0; i < once.numel(); ++i) ASSERT_EQ(twice.get(i), 2 * once.get(i));
    cpu.cross_entropy(logits.tensor(), targets.tensor(), 777, {}, 1, losses.tensor(), {});
    EXPECT_EQ(first.bytes(), losses.bytes());  // with and without the gradient
    for (std::int64_t i = 0; i < logits.numel(); ++i) logits.set(i, logits.get(i) + 64);
    cpu.cross_entropy(logits.tensor(), targets.tensor(), 777, {}, 1, losses.tensor(), {});
    for (std::int64_t r = 0; r < 6; ++r) EXPECT_NEAR(first.get(r), losses.get(r), 4 * 70 * kEps32);
  });
}

TEST(CrossEntropy, RefusesTargetsOutsideTheVocabulary) {
  auto cpu = make_cpu_backend({.threads = 1});
  Twin logits(DType::f32, 2, 8, 1), losses(DType::f32, 2, 1);
  for (std::int32_t bad : {6, 7, 8, -2}) {
    std::vector<std::int32_t> targets = {0, bad};
    EXPECT_THROW(cpu->cross_entropy(logits.tensor(), Tensor(targets.data(), DType::i32, {2}), 6, {}, 1,
                                    losses.tensor(), {}),
                 std::logic_error)
        << bad;
  }
  std::vector<std::int32_t> targets = {0, 1};
  const Tensor t(targets.data(), DType::i32, {2});
  EXPECT_THROW(cpu->cross_entropy(logits.tensor(), t, 9, {}, 1, losses.tensor(), {}), std::logic_error);
  EXPECT_THROW(cpu->cross_entropy(logits.wide(), t, 8, {}, 1, losses.tensor(), {}), std::logic_error);
}

}  // namespace
}  // namespace spectrain
