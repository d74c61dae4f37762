#include <functional>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

// On a GPU heads of 16, 64, 128 and 256 go in packs, the others element by element; 3 rows of 5 heads fill no
// block, 24 heads of 128 more than one turn of it.
const std::vector<HeadLayout> kLayouts = {
    {.batch = 1, .context = 1, .heads = 1, .kv_heads = 1, .head_dim = 2},
    {.batch = 2, .context = 5, .heads = 3, .kv_heads = 1, .head_dim = 10},
    {.batch = 2, .context = 3, .heads = 3, .kv_heads = 1, .head_dim = 16},
    {.batch = 3, .context = 7, .heads = 6, .kv_heads = 2, .head_dim = 52},
    {.batch = 2, .context = 70, .heads = 2, .kv_heads = 2, .head_dim = 64},
    {.batch = 2, .context = 3, .heads = 24, .kv_heads = 12, .head_dim = 128},
    {.batch = 1, .context = 3, .heads = 1, .kv_heads = 1, .head_dim = 256},
};

class QkTransformTest : public KernelTest {
 protected:
  // One combination of norm, rotation, pairs and sign, with tables of its own.
  struct Form {
    QkTransform tested, exact;
  };
  Form form(const HeadLayout& l, bool norm, bool rotate, RotaryPairs pairs, int sign) {
    Form f;
    f.tested.norm = norm;
    f.tested.eps = 1e-6;
    f.tested.pairs = pairs;
    f.tested.sign = sign;
    f.exact = f.tested;
    if (!rotate) return f;
    const std::int64_t half = std::max<std::int64_t>(1, l.head_dim / 2);
    std::vector<double> cosines, sines;
    for (std::int64_t t = 0; t < l.context; ++t)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(t) * std::pow(100.0, -static_cast<double>(i) / static_cast<double>(half));
        cosines.push_back(std::cos(angle));
        sines.push_back(std::sin(angle));
      }
    const Twin cos = values({l.context, half}, DType::f32, cosines),
               sin = values({l.context, half}, DType::f32, sines);
    f.tested.cos = cos.tested;
    f.tested.sin = sin.tested;
    f.exact.cos = cos.exact;
    f.exact.sin = sin.exact;
    return f;
  }
  void for_every_form(const HeadLayout& l, const std::function<void(const Form&)>& body) {
    for (const bool norm : {false, true})
      for (int kind = 0; kind < 5; ++kind) {
        SCOPED_TRACE("norm " + std::to_string(norm) + " rotation " + std::to_string(kind) + " head_dim " +
                     std::to_string(l.head_dim));
        body(form(l, norm, kind > 0, kind > 2 ? RotaryPairs::interleaved : RotaryPairs::halves,
                  kind % 2 == 1 ? 1 : -1));
      }
  }
  Twin copy_of(const Twin& from) {
    const Twin to = space(from.tested.shape, from.tested.dtype);
    cpu().copy(from.tested, to.tested);
    return to;
  }
  static double largest(const Tensor& t) {
    double m = 0;
    for (std::int64_t i = 0; i < t.numel(); ++i) m = std::max(m, std::abs(element(t, i)));
    return m;
  }
};

TEST_P(QkTransformTest, EqualsTheReferenceAndItsGradientToo) {
  for (const HeadLayout& l : kLayouts)
    for (const DType dtype : {DType::f32, DType::bf16})
      for_every_form(l, [&](const Form& f) {
        const Shape packed{l.rows(), l.packed()};
        const double K = static_cast<double>(l.head_dim);
        const Twin in = random(packed, dtype), out = output(packed, dtype), dout = random(packed, dtype),
                   din = output(packed, dtype),
                   all_rstd = output({l.rows(), l.heads + l.kv_heads}, DType::f32);
        const Twin rstd = f.tested.norm ? all_rstd : Twin{};
        exact().qk_transform(l, f.exact, in.exact, out.exact, all_rstd.exact);
        cpu().qk_transform(l, f.tested, in.tested, out.tested, rstd.tested);
        expect_close(out, 4, K, "out", 1, 1 + largest(out.exact));
        if (rstd.tested) expect_close(rstd, 4, K, "rstd", 1, largest(rstd.exact));

        widen(out);
        if (rstd.tested) widen(rstd);
        exact().qk_transform_backward(l, f.exact, dout.exact, out.exact, all_rstd.exact, din.exact);
        cpu().qk_transform_backward(l, f.tested, dout.tested, out.tested, rstd.tested, din.tested);
        expect_close(din, 4, K, "din", 1, 1 + largest(din.exact));

        const Twin same = copy_of(in), gradient = copy_of(dout);
        cpu().qk_transform(l, f.tested, same.tested, same.tested, rstd.tested);
        expect_same_bits(same.tested, out.tested, "out in place");
        cpu().qk_transform_backward(l, f.tested, gradient.tested, out.tested, rstd.tested, gradient.tested);
        expect_same_bits(gradient.tested, din.tested, "din in place");
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

TEST_P(QkTransformTest, GradientEqualsFiniteDifferences) {
  for (const std::int64_t D : {6, 16}) {
    const HeadLayout l{.batch = 1, .context = 3, .heads = 1, .kv_heads = 1, .head_dim = D};
    for_every_form(l, [&](const Form& f) {
      if (!f.tested.cos) return;
      const Twin in = random({3, 3 * D}, DType::f32), out = output({3, 3 * D}, DType::f32),
                 rstd = output({3, 2}, DType::f32), dout = random({3, 3 * D}, DType::f32),
                 din = output({3, 3 * D}, DType::f32);
      cpu().qk_transform(l, f.tested, in.tested, out.tested, rstd.tested);
      cpu().qk_transform_backward(l, f.tested, dout.tested, out.tested, rstd.tested, din.tested);
      for (std::int64_t row = 0; row < 3; ++row)
        for (std::int64_t head = 0; head < 3; ++head)
          for (std::int64_t i = 0; i < D; ++i) {
            const std::int64_t first = (row * 3 + head) * D;
            if (head == 2) {  // values pass
              ASSERT_EQ(element(out.tested, first + i), element(in.tested, first + i));
              ASSERT_EQ(element(din.tested, first + i), element(dout.tested, first + i));
              continue;
            }
            std::vector<double> x;
            for (std::int64_t k = 0; k < D; ++k) x.push_back(element(in.tested, first + k));
            const auto loss = [&](double moved) {
              std::vector<double> at = x;
              at[static_cast<std::size_t>(i)] += moved;
              const std::vector<double> y = plain(at, f.exact, row);
              double sum = 0;
              for (std::int64_t k = 0; k < D; ++k)
                sum += y[static_cast<std::size_t>(k)] * element(dout.tested, first + k);
              return sum;
            };
            ASSERT_NEAR(element(din.tested, first + i), (loss(1e-5) - loss(-1e-5)) / 2e-5, 1e-5);
          }
    });
  }
}

TEST_P(QkTransformTest, TheNormForgetsTheScaleAndARotationKeepsLengths) {
  const HeadLayout l{.batch = 1, .context = 4, .heads = 2, .kv_heads = 1, .head_dim = 32};
  QkTransform t = form(l, true, true, RotaryPairs::halves, 1).tested;
  t.eps = 0;
  const Shape packed{4, l.packed()};
  const Twin a = random(packed, DType::f32), b = space(packed, DType::f32),
             out_a = output(packed, DType::f32), out_b = output(packed, DType::f32),
             rstd_a = output({4, 3}, DType::f32), rstd_b = output({4, 3}, DType::f32);
  cpu().scale(a.tested, 4, b.tested);
  cpu().qk_transform(l, t, a.tested, out_a.tested, rstd_a.tested);
  cpu().qk_transform(l, t, b.tested, out_b.tested, rstd_b.tested);
  for (std::int64_t r = 0; r < 4; ++r)
    for (std::int64_t h = 0; h < 3; ++h) {
      double squares = 0;
      for (std::int64_t i = 0; i < 32; ++i) {
        const std::int64_t at = r * l.packed() + h * 32 + i;
        ASSERT_EQ(element(out_a.tested, at), element(out_b.tested, at));
        squares += element(out_a.tested, at) * element(out_a.tested, at);
      }
      ASSERT_NEAR(squares, 32, 32 * 16 * 0x1p-24);
      ASSERT_EQ(element(rstd_a.tested, r * 3 + h), 4 * element(rstd_b.tested, r * 3 + h));
    }
}

TEST_P(QkTransformTest, OddHeadsGoThroughTheNormAndAreRefusedByTheRotation) {
  const HeadLayout l{.batch = 1, .context = 2, .heads = 1, .kv_heads = 1, .head_dim = 5};
  const Form f = form(l, true, false, RotaryPairs::halves, 1);
  const Twin in = random({2, 15}, DType::f32), out = output({2, 15}, DType::f32),
             rstd = output({2, 2}, DType::f32), dout = random({2, 15}, DType::f32),
             din = output({2, 15}, DType::f32);
  exact().qk_transform(l, f.exact, in.exact, out.exact, rstd.exact);
  cpu().qk_transform(l, f.tested, in.tested, out.tested, rstd.tested);
  expect_close(out, 4, 5, "out");
  widen(out);
  widen(rstd);
  exact().qk_transform_backward(l, f.exact, dout.exact, out.exact, rstd.exact, din.exact);
  cpu().qk_transform_backward(l, f.tested, dout.tested, out.tested, rstd.tested, din.tested);
  expect_close(din, 4, 5, "din", 1, 1 + largest(din.exact));
  const Form rotation = form(l, false, true, RotaryPairs::halves, 1);
  EXPECT_THROW(cpu().qk_transform(l, rotation.tested, in.tested, out.tested, {}), std::logic_error);
  EXPECT_THROW(cpu().qk_transform(l, f.tested, in.tested, out.tested, {}), std::logic_error);
}

TEST_P(QkTransformTest, RefusesHeadsItHasNoRoomFor) {
  const HeadLayout l{.batch = 1, .context = 1, .heads = 1, .kv_heads = 1, .head_dim = 258};
  const Twin in = random({1, l.packed()}, DType::f32), out = output({1, l.packed()}, DType::f32);
  EXPECT_THROW(cpu().qk_transform(l, {}, in.tested, out.tested, {}), std::logic_error);
}

TEST_P(QkTransformTest, FewBlocksGiveTheBitsOfMany) {
  if (on_cpu()) GTEST_SKIP() << "about the blocks of a GPU";
  const auto one = tested_with_one_block();
  if (!one) GTEST_SKIP() << "no GPU";
  for (const std::int64_t D : {52, 64}) {
    const HeadLayout l{.batch = 2, .context = 9, .heads = 4, .kv_heads = 2, .head_dim = D};
    const Form f = form(l, true, true, RotaryPairs::halves, 1);
    const Shape packed{l.rows(), l.packed()};
    const Twin in = random(packed, DType::bf16), dout = random(packed, DType::bf16);
    std::vector<Twin> outs, dins;
    for (Backend* backend : {&cpu(), one.get()}) {
      const Twin rstd = output({l.rows(), 6}, DType::f32);
      outs.push_back(output(packed, DType::bf16));
      dins.push_back(output(packed, DType::bf16));
      backend->qk_transform(l, f.tested, in.tested, outs.back().tested, rstd.tested);
      backend->qk_transform_backward(l, f.tested, dout.tested, outs.back().tested, rstd.tested,
                                     dins.back().tested);
    }
    expect_same_bits(outs[0].tested, outs[1].tested, "out");
    expect_same_bits(dins[0].tested, dins[1].tested, "din");
  }
}

SPECTRAIN_KERNEL_TEST_ALL(QkTransformTest);

}  // namespace
}  // namespace spectrain
