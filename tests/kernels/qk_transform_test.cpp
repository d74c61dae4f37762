#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "tests/kernels/twin.h"

namespace spectrain {
namespace {

const std::vector<HeadLayout> kLayouts = {
    {.batch = 1, .context = 1, .heads = 1, .kv_heads = 1, .head_dim = 2},
    {.batch = 2, .context = 5, .heads = 3, .kv_heads = 1, .head_dim = 10},
    {.batch = 3, .context = 7, .heads = 6, .kv_heads = 2, .head_dim = 52},
    {.batch = 2, .context = 300, .heads = 2, .kv_heads = 2, .head_dim = 64},
    {.batch = 1, .context = 3, .heads = 1, .kv_heads = 1, .head_dim = 256},
};

// Every combination of norm, rotation, pairs and sign, with tables of its own.
struct Form {
  bool norm, rotate;
  RotaryPairs pairs;
  int sign;
  Twin cos, sin;
  Form(const HeadLayout& l, bool n, bool r, RotaryPairs p, int s)
      : norm(n),
        rotate(r),
        pairs(p),
        sign(s),
        cos(DType::f32, l.context, std::max<std::int64_t>(1, l.head_dim / 2)),
        sin(DType::f32, l.context, std::max<std::int64_t>(1, l.head_dim / 2)) {
    const std::int64_t half = std::max<std::int64_t>(1, l.head_dim / 2);
    for (std::int64_t t = 0; t < l.context; ++t)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(t) * std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half));
        cos.set(t * half + i, std::cos(angle));
        sin.set(t * half + i, std::sin(angle));
      }
  }
  QkTransform transform(bool wide) {
    QkTransform t;
    t.norm = norm;
    t.eps = 1e-6;
    t.pairs = pairs;
    t.sign = sign;
    if (rotate) {
      t.cos = wide ? cos.wide() : cos.tensor();
      t.sin = wide ? sin.wide() : sin.tensor();
    }
    return t;
  }
};

void for_every_form(const HeadLayout& l, const std::function<void(Form&)>& body) {
  for (bool norm : {false, true})
    for (int kind = 0; kind < 5; ++kind) {
      Form form(l, norm, kind > 0, kind > 2 ? RotaryPairs::interleaved : RotaryPairs::halves,
                kind % 2 == 1 ? 1 : -1);
      SCOPED_TRACE("norm " + std::to_string(norm) + " rotation " + std::to_string(kind) + " head_dim " +
                   std::to_string(l.head_dim));
      body(form);
    }
}

TEST(QkTransform, EqualsTheReferenceAndItsGradientToo) {
  ReferenceBackend reference;
  for (const HeadLayout& l : kLayouts)
    for (DType dtype : {DType::f32, DType::bf16})
      for_every_form(l, [&](Form& form) {
        Twin in(dtype, l.rows(), l.packed(), 1), out(dtype, l.rows(), l.packed());
        Twin rstd(DType::f32, l.rows(), l.heads + l.kv_heads);
        Twin dout(dtype, l.rows(), l.packed(), 2), din(dtype, l.rows(), l.packed());
        Twin in_place = in, in_place_gradient = dout;
        const double walk = 8 * kEps32 * std::sqrt(static_cast<double>(l.head_dim));
        on_every_cpu([&](Backend& cpu) {
          reference.qk_transform(l, form.transform(true), in.wide(), out.wide(), rstd.wide());
          cpu.qk_transform(l, form.transform(false), in.tensor(), out.tensor(),
                           form.norm ? rstd.tensor() : Tensor());
          out.expect_close(walk * (1 + out.largest()), "out");
          if (form.norm) rstd.expect_close(walk * rstd.largest(), "rstd");

          out.adopt();
          if (form.norm) rstd.adopt();
          reference.qk_transform_backward(l, form.transform(true), dout.wide(), out.wide(), rstd.wide(),
                                          din.wide());
          cpu.qk_transform_backward(l, form.transform(false), dout.tensor(), out.tensor(),
                                    form.norm ? rstd.tensor() : Tensor(), din.tensor());
          din.expect_close(walk * (1 + din.largest()), "din");

          Twin same = in_place, gradient = in_place_gradient;
          cpu.qk_transform(l, form.transform(false), same.tensor(), same.tensor(),
                           form.norm ? rstd.tensor() : Tensor());
          EXPECT_EQ(same.bytes(), out.bytes());
          cpu.qk_transform_backward(l, form.transform(false), gradient.tensor(), out.tensor(),
                                    form.norm ? rstd.tensor() : Tensor(), gradient.tensor());
          EXPECT_EQ(gradient.bytes(), din.bytes());
        });
      });
}

// An own forward pass of one head in plain loops.
std::vector<double> plain(const std::vector<double>& x, const QkTransform& t, std::int64_t position) {
  std::vector<double> y = x;
  double squares = 0;
  for (double e : x) squares += e * e;
  if (t.norm)
    for (double& e : y) e /= std::sqrt(squares / static_cast<double>(x.size()) + t.eps);
  const std::size_t half = x.size() / 2;
  std::vector<double> z = y;
  for (std::size_t i = 0; i < half; ++i) {
    const std::size_t a = t.pairs == RotaryPairs::halves ? i : 2 * i;
    const std::size_t b = t.pairs == RotaryPairs::halves ? i + half : 2 * i + 1;
    const auto at = static_cast<std::size_t>(position) * half + i;
    const double c = t.cos.as<double>()[at], s = t.sign * t.sin.as<double>()[at];
    z[a] = y[a] * c - y[b] * s;
    z[b] = y[a] * s + y[b] * c;
  }
  return z;
}

TEST(QkTransform, GradientEqualsFiniteDifferences) {
  const HeadLayout l{.batch = 1, .context = 3, .heads = 1, .kv_heads = 1, .head_dim = 6};
  auto cpu = make_cpu_backend({.threads = 1});
  for_every_form(l, [&](Form& form) {
    if (!form.rotate) return;
    const QkTransform t = form.transform(true);
    Twin in(DType::f32, 3, 18, 1), out(DType::f32, 3, 18), rstd(DType::f32, 3, 2), dout(DType::f32, 3, 18, 2),
        din(DType::f32, 3, 18);
    cpu->qk_transform(l, form.transform(false), in.tensor(), out.tensor(), rstd.tensor());
    cpu->qk_transform_backward(l, form.transform(false), dout.tensor(), out.tensor(), rstd.tensor(),
                               din.tensor());
    for (std::int64_t row = 0; row < 3; ++row)
      for (std::int64_t head = 0; head < 3; ++head)
        for (std::int64_t i = 0; i < 6; ++i) {
          const std::int64_t first = row * 18 + head * 6;
          if (head == 2) {  // values pass
            ASSERT_EQ(out.get(first + i), in.get(first + i));
            ASSERT_EQ(din.get(first + i), dout.get(first + i));
            continue;
          }
          std::vector<double> x;
          for (std::int64_t k = 0; k < 6; ++k) x.push_back(in.get(first + k));
          const auto loss = [&](double moved) {
            std::vector<double> at = x;
            at[static_cast<std::size_t>(i)] += moved;
            const std::vector<double> y = plain(at, t, row);
            double sum = 0;
            for (std::int64_t k = 0; k < 6; ++k) sum += y[static_cast<std::size_t>(k)] * dout.get(first + k);
            return sum;
          };
          ASSERT_NEAR(din.get(first + i), (loss(1e-5) - loss(-1e-5)) / 2e-5, 1e-5);
        }
  });
}

TEST(QkTransform, TheNormForgetsTheScaleAndARotationKeepsLengths) {
  const HeadLayout l{.batch = 1, .context = 4, .heads = 2, .kv_heads = 1, .head_dim = 32};
  Form form(l, true, true, RotaryPairs::halves, 1);
  QkTransform t = form.transform(false);
  t.eps = 0;
  on_every_cpu([&](Backend& cpu) {
    Twin a(DType::f32, 4, l.packed(), 1), b = a, rstd_a(DType::f32, 4, 3), rstd_b = rstd_a;
    for (std::int64_t i = 0; i < b.numel(); ++i) b.set(i, 4 * a.get(i));
    Twin out_a(DType::f32, 4, l.packed()), out_b = out_a;
    cpu.qk_transform(l, t, a.tensor(), out_a.tensor(), rstd_a.tensor());
    cpu.qk_transform(l, t, b.tensor(), out_b.tensor(), rstd_b.tensor());
    for (std::int64_t r = 0; r < 4; ++r)
      for (std::int64_t h = 0; h < 3; ++h) {
        double squares = 0;
        for (std::int64_t i = 0; i < 32; ++i) {
          const std::int64_t at = r * l.packed() + h * 32 + i;
          ASSERT_EQ(out_a.get(at), out_b.get(at));
          squares += out_a.get(at) * out_a.get(at);
        }
        ASSERT_NEAR(squares, 32, 32 * 16 * kEps32);
        ASSERT_EQ(rstd_a.get(r * 3 + h), 4 * rstd_b.get(r * 3 + h));
      }
  });
}

TEST(QkTransform, OddHeadsGoThroughTheNormAndAreRefusedByTheRotation) {
  const HeadLayout l{.batch = 1, .context = 2, .heads = 1, .kv_heads = 1, .head_dim = 5};
  Twin in(DType::f32, 2, 15, 1), out(DType::f32, 2, 15), rstd(DType::f32, 2, 2);
  ReferenceBackend reference;
  Form form(l, true, false, RotaryPairs::halves, 1);
  reference.qk_transform(l, form.transform(true), in.wide(), out.wide(), rstd.wide());
  on_every_cpu([&](Backend& cpu) {
    cpu.qk_transform(l, form.transform(false), in.tensor(), out.tensor(), rstd.tensor());
    out.expect_close(32 * kEps32, "out");
    Form rotation(l, false, true, RotaryPairs::halves, 1);
    EXPECT_THROW(cpu.qk_transform(l, rotation.transform(false), in.tensor(), out.tensor(), {}),
                 std::logic_error);
    EXPECT_THROW(cpu.qk_transform(l, form.transform(false), in.tensor(), out.tensor(), {}), std::logic_error);
  });
}

}  // namespace
}  // namespace spectrain
