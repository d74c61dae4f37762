#include <functional>

#include "tests/kernels/kernel_cases.h"

// Pins the float64 reference: each of its backward functions against central finite differences of its own
// forward function. With f = sum(weights * forward(x)), backward of the weights must be df/dx.

namespace spectrain {
namespace {

class ReferenceGradients : public ::testing::Test {
 protected:
  Tensor make(Shape shape, DType dtype = DType::f64) {
    buffers_.push_back(ref_.allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype), "x"));
    return buffers_.back()->view(dtype, shape);
  }
  Tensor random(Shape shape, float deviation = 1, float mean = 0) {
    const Tensor t = make(shape);
    ref_.fill_normal(t, {11, ++draws_}, mean, deviation);
    return t;
  }
  static double weighted(const Tensor& weights, const Tensor& y) {
    double s = 0;
    for (std::int64_t i = 0; i < y.numel(); ++i) s += weights.as<double>()[i] * y.as<double>()[i];
    return s;
  }
  // |analytic - numeric| <= 1e-8 of the largest gradient: h^2 truncation and eps / h cancellation, h = 1e-5.
  static void check(const Tensor& x, const Tensor& gradient, const std::function<double()>& f,
                    const char* what) {
    double* p = x.as<double>();
    double largest = 1;
    for (std::int64_t i = 0; i < x.numel(); ++i)
      largest = std::max(largest, std::abs(gradient.as<double>()[i]));
    const double h = 1e-5;
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const double kept = p[i];
      p[i] = kept + h;
      const double above = f();
      p[i] = kept - h;
      const double below = f();
      p[i] = kept;
      EXPECT_NEAR(gradient.as<double>()[i], (above - below) / (2 * h), 1e-8 * largest) << what << " " << i;
    }
  }

  ReferenceBackend ref_;

 private:
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::uint64_t draws_ = 0;
};

TEST_F(ReferenceGradients, Activations) {
  for (const Activation act : {Activation::none, Activation::gelu, Activation::gelu_tanh, Activation::relu2,
                               Activation::sigmoid, Activation::relu}) {
    const Tensor x = random({40}), dy = random({40}), y = make({40}), dx = make({40});
    const auto f = [&] {
      ref_.activation(act, x, y);
      return weighted(dy, y);
    };
    f();
    ref_.activation_backward(act, dy, saves_output(act) ? y : x, dx);
    check(x, dx, f, "activation");
  }
  const Tensor x = random({3, 10}), dy = random({3, 5}), y = make({3, 5}), dx = make({3, 10});
  ref_.swiglu_backward(dy, x, dx);
  check(
      x, dx,
      [&] {
        ref_.swiglu(x, y);
        return weighted(dy, y);
      },
      "swiglu");
}

TEST_F(ReferenceGradients, Linear) {
  const Tensor x = random({4, 3}), w = random({5, 3}), bias = random({5}), dy = random({4, 5}),
               y = make({4, 5});
  const Tensor dx = make({4, 3}), dw = make({5, 3}), db = make({5});
  const auto prepared = ref_.prepare(w, DType::f64, true);
  const auto f = [&] {
    ref_.refresh(*prepared, w);
    ref_.linear(x, *prepared, bias, Activation::none, {}, y);
    return weighted(dy, y);
  };
  ref_.linear_backward_input(dy, *prepared, dx, false);
  ref_.linear_backward_weight(dy, x, dw, false);
  ref_.bias_gradient(dy, db, false);
  check(x, dx, f, "linear x");
  check(w, dw, f, "linear w");
  check(bias, db, f, "linear bias");
}

TEST_F(ReferenceGradients, Norms) {
  for (const NormKind kind : {NormKind::layer, NormKind::rms}) {
    const std::int64_t R = 3, C = 7;
    const Tensor x = random({R, C}), gain = random({C}), bias = random({C}), dy = random({R, C});
    const Tensor y = make({R, C}), mean = make({R}), rstd = make({R});
    const Tensor dx = make({R, C}), dgain = make({C}), dbias = make({C});
    const auto f = [&] {
      ref_.norm(kind, x, gain, bias, 0.01, y, mean, rstd);
      return weighted(dy, y);
    };
    f();
    ref_.norm_backward(kind, dy, x, gain, mean, rstd, dx, false, dgain, dbias, false);
    check(x, dx, f, "norm x");
    check(gain, dgain, f, "norm gain");
    check(bias, dbias, f, "norm bias");
    const Tensor twice = make({R, C});
    ref_.copy(dx, twice);
    ref_.norm_backward(kind, dy, x, gain, mean, rstd, twice, true, dgain, dbias, true);
    for (std::int64_t i = 0; i < R * C; ++i) EXPECT_EQ(twice.as<double>()[i], 2 * dx.as<double>()[i]);
  }
}

TEST_F(ReferenceGradients, Embedding) {
  const Tensor tokens = make({2, 3}, DType::i32), table = random({4, 2}), positions = random({3, 2});
  const std::int32_t ids[] = {1, 3, 1, 0, 1, 3};
  ref_.copy_from_host(tokens, ids);
  const Tensor dout = random({6, 2}), out = make({6, 2}), dtable = make({4, 2}), dpositions = make({3, 2});
  ref_.fill(dtable, 0);
  ref_.fill(dpositions, 0);
  ref_.embedding_backward(tokens, dout, 3, dtable, dpositions);
  const auto f = [&] {
    ref_.embedding(tokens, table, positions, 3, out);
    return weighted(dout, out);
  };
  check(table, dtable, f, "embedding table");
  check(positions, dpositions, f, "embedding positions");
}

TEST_F(ReferenceGradients, CrossEntropy) {
  using Kind = Softcap::Kind;
  for (const Softcap& cap : {Softcap{}, Softcap{Kind::tanh, 3, 1, 0}, Softcap{Kind::sigmoid, 30, 7.5, 5},
                             Softcap{Kind::rational, 2, 1, 0}}) {
    const std::int64_t R = 4, V = 9, vocab = 7;
    const Tensor logits = random({R, V}, 2), targets = make({R}, DType::i32), losses = make({R});
    const Tensor d = make({R, V});
    const std::int32_t ids[] = {0, 6, -1, 3};
    ref_.copy_from_host(targets, ids);
    ref_.cross_entropy(logits, targets, vocab, cap, 0.25, losses, d);
    EXPECT_EQ(losses.as<double>()[2], 0);
    check(
        logits, d,
        [&] {
          ref_.cross_entropy(logits, targets, vocab, cap, 1, losses, {});
          return 0.25 * ref_.sum(losses);
        },
        "cross_entropy");
  }
}

TEST_F(ReferenceGradients, QkTransform) {
  for (const bool norm : {false, true})
    for (const RotaryPairs pairs : {RotaryPairs::halves, RotaryPairs::interleaved})
      for (const int sign : {1, -1})
        for (const bool rotates : {false, true}) {
          HeadLayout l{2, 3, 4, 2, 4};
          QkTransform t;
          t.norm = norm;
          t.eps = 0.01;
          t.pairs = pairs;
          t.sign = sign;
          if (rotates) {
            t.cos = make({3, 2});
            t.sin = make({3, 2});
            for (std::int64_t i = 0; i < 6; ++i) {
              t.cos.as<double>()[i] = std::cos(0.7 * static_cast<double>(i));
              t.sin.as<double>()[i] = std::sin(0.7 * static_cast<double>(i));
            }
          }
          const Tensor in = random({l.rows(), l.packed()}), dout = random({l.rows(), l.packed()});
          const Tensor out = make({l.rows(), l.packed()}), din = make({l.rows(), l.packed()});
          const Tensor rstd = make({l.rows(), l.heads + l.kv_heads});
          const auto f = [&] {
            ref_.qk_transform(l, t, in, out, rstd);
            return weighted(dout, out);
          };
          f();
          ref_.qk_transform_backward(l, t, dout, out, rstd, din);
          check(in, din, f, "qk_transform");
        }
}

TEST_F(ReferenceGradients, Attention) {
  for (const HeadLayout& l :
       {HeadLayout{1, 5, 2, 2, 3}, HeadLayout{2, 4, 4, 2, 2}, HeadLayout{1, 1, 1, 1, 1}}) {
    const Tensor qkv = random({l.rows(), l.packed()}), dout = random({l.rows(), l.width()});
    const Tensor out = make({l.rows(), l.width()}), lse = make({l.batch, l.heads, l.context});
    const Tensor d = make({l.rows(), l.packed()});
    const auto f = [&] {
      ref_.attention(l, 0.6, qkv, {}, out, lse);
      return weighted(dout, out);
    };
    f();
    ref_.attention_backward(l, 0.6, dout, qkv, {}, out, lse, d);
    check(qkv, d, f, "attention");
  }
}

// A value worked out by hand: one head of dimension 1, q = 1, keys 0 and ln 3, values 4 and 8: weights 1/4,
// 3/4.
TEST_F(ReferenceGradients, AttentionByHand) {
  const Tensor qkv = make({2, 3}), out = make({2, 1}), lse = make({1, 1, 2});
  const double rows[] = {1, 0, 4, 1, std::log(3.0), 8};
  ref_.copy_from_host(qkv, rows);
  ref_.attention({1, 2, 1, 1, 1}, 1, qkv, {}, out, lse);
  EXPECT_NEAR(out.as<double>()[0], 4, 1e-15);
  EXPECT_NEAR(out.as<double>()[1], 7, 1e-15);
  EXPECT_NEAR(lse.as<double>()[1], std::log(4.0), 1e-15);
}

TEST_F(ReferenceGradients, MatrixProducts) {
  const Tensor a = random({3, 4}), b = random({4, 5}), c = make({3, 5}), at = make({4, 3}), bt = make({5, 4});
  for (std::int64_t i = 0; i < 3; ++i)
    for (std::int64_t k = 0; k < 4; ++k) at.as<double>()[k * 3 + i] = a.as<double>()[i * 4 + k];
  for (std::int64_t k = 0; k < 4; ++k)
    for (std::int64_t j = 0; j < 5; ++j) bt.as<double>()[j * 4 + k] = b.as<double>()[k * 5 + j];
  for (const bool ta : {false, true})
    for (const bool tb : {false, true}) {
      ref_.fill(c, 1);
      ref_.matmul(ta ? at : a, ta, tb ? bt : b, tb, 2, 0.5, c);
      for (std::int64_t i = 0; i < 3; ++i)
        for (std::int64_t j = 0; j < 5; ++j) {
          double s = 0;
          for (std::int64_t k = 0; k < 4; ++k) s += a.as<double>()[i * 4 + k] * b.as<double>()[k * 5 + j];
          EXPECT_NEAR(c.as<double>()[i * 5 + j], 2 * s + 0.5, 1e-14);
        }
    }
  const Tensor square = make({3, 3}), product = make({3, 3});
  ref_.symmetric_product(a, 2, {}, 0, square);
  ref_.matmul(a, false, a, true, 2, 0, product);
  for (std::int64_t i = 0; i < 9; ++i) EXPECT_NEAR(square.as<double>()[i], product.as<double>()[i], 1e-14);
}

}  // namespace
}  // namespace spectrain
