#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "tests/kernels/twin.h"

namespace spectrain {
namespace {

const std::vector<HeadLayout> kLayouts = {
    {.batch = 1, .context = 1, .heads = 1, .kv_heads = 1, .head_dim = 1},
    {.batch = 3, .context = 1, .heads = 2, .kv_heads = 2, .head_dim = 16},
    {.batch = 2, .context = 7, .heads = 2, .kv_heads = 1, .head_dim = 5},
    {.batch = 2, .context = 63, .heads = 2, .kv_heads = 2, .head_dim = 32},
    {.batch = 1, .context = 64, .heads = 6, .kv_heads = 2, .head_dim = 64},
    {.batch = 2, .context = 65, .heads = 6, .kv_heads = 2, .head_dim = 64},
    {.batch = 1, .context = 130, .heads = 3, .kv_heads = 1, .head_dim = 52},
    {.batch = 1, .context = 140, .heads = 1, .kv_heads = 1, .head_dim = 80},
    {.batch = 1, .context = 129, .heads = 2, .kv_heads = 1, .head_dim = 128},
    {.batch = 1, .context = 73, .heads = 1, .kv_heads = 1, .head_dim = 255},
    {.batch = 1, .context = 257, .heads = 2, .kv_heads = 2, .head_dim = 48},
};

std::string name(const HeadLayout& l) {
  return "batch " + std::to_string(l.batch) + " context " + std::to_string(l.context) + " heads " +
         std::to_string(l.heads) + "/" + std::to_string(l.kv_heads) + " of " + std::to_string(l.head_dim);
}

// All tensors of one attention and its gradient.
struct Case {
  HeadLayout l;
  double scale;
  Twin qkv, out, lse, dout, dqkv;
  Case(const HeadLayout& layout, DType dtype, double magnitude = 1)
      : l(layout),
        scale(1 / std::sqrt(static_cast<double>(layout.head_dim))),
        qkv(dtype, l.rows(), l.packed(), 1, magnitude),
        out(dtype, l.rows(), l.width()),
        lse(DType::f32, l.batch * l.heads, l.context),
        dout(dtype, l.rows(), l.width(), 2),
        dqkv(dtype, l.rows(), l.packed()) {}
  void forward(Backend& b) { b.attention(l, scale, qkv.tensor(), out.tensor(), lse.tensor()); }
  void backward(Backend& b) {
    b.attention_backward(l, scale, dout.tensor(), qkv.tensor(), out.tensor(), lse.tensor(), dqkv.tensor());
  }
};

TEST(Attention, EqualsTheReference) {
  ReferenceBackend reference;
  for (const HeadLayout& l : kLayouts)
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(name(l) + " " + std::string(name_of(dtype)));
      Case c(l, dtype);
      reference.attention(l, c.scale, c.qkv.wide(), c.out.wide(), c.lse.wide());
      const double walk = 8 * kEps32 * std::sqrt(static_cast<double>(l.context + l.head_dim));
      on_every_cpu([&](Backend& cpu) {
        c.forward(cpu);
        c.out.expect_close(walk, "out");
        c.lse.expect_close(walk, "lse");
      });
    }
}

// The gradient is a function of dout, qkv, out and lse as they are stored: the reference gets just these.
TEST(Attention, GradientEqualsTheReference) {
  ReferenceBackend reference;
  for (const HeadLayout& l : kLayouts)
    for (DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(name(l) + " " + std::string(name_of(dtype)));
      Case c(l, dtype);
      c.forward(*make_cpu_backend({.threads = 1}));
      c.out.adopt();
      c.lse.adopt();
      reference.attention_backward(l, c.scale, c.dout.wide(), c.qkv.wide(), c.out.wide(), c.lse.wide(),
                                   c.dqkv.wide());
      const double walk =
          8 * kEps32 * std::sqrt(static_cast<double>(l.context + l.head_dim)) * (1 + c.dqkv.largest());
      on_every_cpu([&](Backend& cpu) {
        c.backward(cpu);
        c.dqkv.expect_close(walk, "dqkv");
      });
    }
}

// An own forward pass in plain loops, and the gradient of sum(out * dout) by differences of it.
double weighted_output(const HeadLayout& l, double scale, const std::vector<double>& x,
                       const std::vector<double>& weight) {
  const auto P = l.packed(), D = l.head_dim, group = l.heads / l.kv_heads;
  const auto at = [&](std::int64_t row, std::int64_t head, std::int64_t i) {
    return x[static_cast<std::size_t>(row * P + head * D + i)];
  };
  double total = 0;
  for (std::int64_t row = 0; row < l.rows(); ++row)
    for (std::int64_t h = 0; h < l.heads; ++h) {
      const std::int64_t k = l.heads + h / group, v = k + l.kv_heads, start = row - row % l.context;
      double sum = 0, value = 0;
      for (std::int64_t s = start; s <= row; ++s) {
        double score = 0, along = 0;
        for (std::int64_t i = 0; i < D; ++i) {
          score += at(row, h, i) * at(s, k, i);
          along += at(s, v, i) * weight[static_cast<std::size_t>((row * l.heads + h) * D + i)];
        }
        sum += std::exp(scale * score);
        value += std::exp(scale * score) * along;
      }
      total += value / sum;
    }
  return total;
}

TEST(Attention, GradientEqualsFiniteDifferences) {
  const HeadLayout l{.batch = 2, .context = 5, .heads = 4, .kv_heads = 2, .head_dim = 3};
  Case c(l, DType::f32);
  auto cpu = make_cpu_backend({.threads = 2});
  c.forward(*cpu);
  c.backward(*cpu);
  std::vector<double> x, weight;
  for (std::int64_t i = 0; i < c.qkv.numel(); ++i) x.push_back(c.qkv.get(i));
  for (std::int64_t i = 0; i < c.dout.numel(); ++i) weight.push_back(c.dout.get(i));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double h = 1e-5, here = x[i];
    x[i] = here + h;
    const double above = weighted_output(l, c.scale, x, weight);
    x[i] = here - h;
    const double below = weighted_output(l, c.scale, x, weight);
    x[i] = here;
    ASSERT_NEAR(c.dqkv.get(static_cast<std::int64_t>(i)), (above - below) / (2 * h), 2e-6) << "element " << i;
  }
}

// Whole heads on one thread and blocks of keys and queries on many are cut differently and add in one order.
TEST(Attention, GivesTheSameBitsOnAnyNumberOfThreads) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (std::int64_t kv_heads : {1, 3}) {
      const HeadLayout l{.batch = 1, .context = 200, .heads = 3, .kv_heads = kv_heads, .head_dim = 40};
      Case one(l, dtype);
      auto single = make_cpu_backend({.threads = 1});
      one.forward(*single);
      one.backward(*single);
      for (int threads : {2, 3, 5, 8}) {
        Case many(l, dtype);
        auto cpu = make_cpu_backend({.threads = threads});
        for (int again = 0; again < 2; ++again) {
          many.forward(*cpu);
          many.backward(*cpu);
          EXPECT_EQ(one.out.bytes(), many.out.bytes()) << threads;
          EXPECT_EQ(one.lse.bytes(), many.lse.bytes()) << threads;
          EXPECT_EQ(one.dqkv.bytes(), many.dqkv.bytes()) << threads;
        }
      }
    }
}

TEST(Attention, SeesNothingOfTheFuture) {
  const HeadLayout l{.batch = 1, .context = 150, .heads = 2, .kv_heads = 1, .head_dim = 20};
  on_every_cpu([&](Backend& cpu) {
    for (std::int64_t changed : {1, 63, 64, 100, 149}) {
      Case before(l, DType::f32), after(l, DType::f32);
      before.forward(cpu);
      for (std::int64_t i = changed * l.packed(); i < after.qkv.numel(); ++i) after.qkv.set(i, 30);
      after.forward(cpu);
      EXPECT_EQ(0, std::memcmp(before.out.bytes().data(), after.out.bytes().data(),
                               static_cast<std::size_t>(changed * l.width()) * 4))
          << changed;
    }
  });
}

TEST(Attention, DoublingTheQueriesAndHalvingTheScaleChangesNothing) {
  const HeadLayout l{.batch = 1, .context = 90, .heads = 2, .kv_heads = 2, .head_dim = 24};
  on_every_cpu([&](Backend& cpu) {
    Case a(l, DType::f32), b(l, DType::f32);
    for (std::int64_t r = 0; r < l.rows(); ++r)
      for (std::int64_t i = r * l.packed(); i < r * l.packed() + l.width(); ++i)
        b.qkv.set(i, 2 * a.qkv.get(i));
    b.scale = a.scale / 2;
    a.forward(cpu);
    b.forward(cpu);
    EXPECT_EQ(a.out.bytes(), b.out.bytes());
    a.backward(cpu);
    b.backward(cpu);
    for (std::int64_t r = 0; r < l.rows(); ++r)
      for (std::int64_t i = 0; i < l.packed(); ++i) {
        const std::int64_t at = r * l.packed() + i;
        ASSERT_EQ(b.dqkv.get(at), i < l.width() ? a.dqkv.get(at) / 2 : a.dqkv.get(at));
      }
  });
}

TEST(Attention, TakesScoresFarApart) {
  const HeadLayout l{.batch = 1, .context = 100, .heads = 1, .kv_heads = 1, .head_dim = 64};
  ReferenceBackend reference;
  on_every_cpu([&](Backend& cpu) {
    Case c(l, DType::f32, 30);  // scores of several thousand
    reference.attention(l, c.scale, c.qkv.wide(), c.out.wide(), c.lse.wide());
    c.forward(cpu);
    // A score s is known to eps * |terms of its sum|, and so is the logarithm of its weight.
    const double score = 900 * std::sqrt(64.0);
    c.out.expect_close(30 * 8 * kEps32 * score, "out");
    c.lse.expect_close(8 * kEps32 * score, "lse");
    c.backward(cpu);
    for (std::int64_t i = 0; i < c.dqkv.numel(); ++i) ASSERT_TRUE(std::isfinite(c.dqkv.get(i)));
  });
}

TEST(Attention, ANaNStaysVisible) {
  const HeadLayout l{.batch = 1, .context = 70, .heads = 1, .kv_heads = 1, .head_dim = 8};
  on_every_cpu([&](Backend& cpu) {
    for (std::int64_t part : {0, 1, 2}) {  // in q, k and v of the last position
      Case c(l, DType::f32);
      c.qkv.set(69 * l.packed() + part * 8 + 3, NAN);
      c.forward(cpu);
      EXPECT_TRUE(std::isnan(c.out.get(69 * 8 + 3))) << part;
    }
  });
}

TEST(Attention, LseIsOptionalForwardAndScratchIsKept) {
  const HeadLayout l{.batch = 1, .context = 30, .heads = 2, .kv_heads = 1, .head_dim = 8};
  auto cpu = make_cpu_backend({.threads = 2});
  Case a(l, DType::f32), b(l, DType::f32);
  a.forward(*cpu);
  cpu->attention(l, b.scale, b.qkv.tensor(), b.out.tensor(), {});
  EXPECT_EQ(a.out.bytes(), b.out.bytes());
  a.backward(*cpu);
  const std::size_t held = cpu->allocated_bytes();
  for (int i = 0; i < 3; ++i) {
    a.forward(*cpu);
    a.backward(*cpu);
  }
  EXPECT_EQ(held, cpu->allocated_bytes());
}

TEST(Attention, RefusesWhatItCannotDo) {
  auto cpu = make_cpu_backend({.threads = 1});
  Case wide({.batch = 1, .context = 2, .heads = 1, .kv_heads = 1, .head_dim = 257}, DType::f32);
  EXPECT_THROW(wide.forward(*cpu), std::logic_error);
  Case uneven({.batch = 1, .context = 2, .heads = 3, .kv_heads = 2, .head_dim = 4}, DType::f32);
  EXPECT_THROW(uneven.forward(*cpu), std::logic_error);
  Case c({.batch = 1, .context = 2, .heads = 2, .kv_heads = 1, .head_dim = 4}, DType::f32);
  EXPECT_THROW(cpu->attention(c.l, 1, c.out.tensor(), c.out.tensor(), {}), std::logic_error);
  EXPECT_THROW(cpu->attention(c.l, 1, c.qkv.wide(), c.out.wide(), {}), std::logic_error);
  EXPECT_THROW(
      cpu->attention_backward(c.l, 1, c.dout.tensor(), c.qkv.tensor(), c.out.tensor(), {}, c.dqkv.tensor()),
      std::logic_error);
}

}  // namespace
}  // namespace spectrain
