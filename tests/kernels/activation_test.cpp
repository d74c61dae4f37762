#include <numbers>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

constexpr Activation kAll[] = {Activation::none,  Activation::gelu,    Activation::gelu_tanh,
                               Activation::relu2, Activation::sigmoid, Activation::relu};
constexpr DType kDTypes[] = {DType::f32, DType::bf16};
constexpr std::int64_t kSizes[] = {1, 5, 7, 100, 769, 70001};

class ActivationTest : public KernelTest {};

TEST_P(ActivationTest, ForwardAgreesWithFloat64) {
  for (const DType dtype : kDTypes)
    for (const std::int64_t n : kSizes)
      for (const Activation act : kAll) {
        const Twin x = random({n}, dtype, 2), y = output({n}, dtype);
        cpu().activation(act, x.tested, y.tested);
        exact().activation(act, x.exact, y.exact);
        expect_close(y, 8, 1, "activation " + std::to_string(static_cast<int>(act)));
        cpu().activation(act, x.tested, x.tested);
        expect_same_bits(x.tested, y.tested, "activation in place");
      }
}

TEST_P(ActivationTest, BackwardAgreesWithFloat64) {
  for (const DType dtype : kDTypes)
    for (const std::int64_t n : kSizes)
      for (const Activation act : kAll) {
        const Twin x = random({n}, dtype, 2), dy = random({n}, dtype), dx = output({n}, dtype);
        if (saves_output(act)) {
          cpu().activation(act, x.tested, x.tested);
          widen(x);
        }
        cpu().activation_backward(act, dy.tested, x.tested, dx.tested);
        exact().activation_backward(act, dy.exact, x.exact, dx.exact);
        expect_close(dx, 8, 1, "activation_backward " + std::to_string(static_cast<int>(act)));
        cpu().activation_backward(act, dy.tested, x.tested, dy.tested);
        expect_same_bits(dy.tested, dx.tested, "activation_backward in place");
      }
}

// Relative error over every magnitude, small and large, where the cancellation of a naive formula would show.
TEST_P(ActivationTest, RelativeErrorStaysSmallInTheTails) {
  std::vector<double> points;
  for (double x = -9; x <= 9; x += 1.0 / 64) points.push_back(x);
  for (double x = 1e-30; x < 1; x *= 3) points.insert(points.end(), {x, -x});
  const auto n = static_cast<std::int64_t>(points.size());
  const Twin x = values({n}, DType::f32, points), y = output({n}, DType::f32);
  for (const Activation act : {Activation::gelu, Activation::gelu_tanh}) {
    cpu().activation(act, x.tested, y.tested);
    exact().activation(act, x.exact, y.exact);
    for (std::int64_t i = 0; i < n; ++i) {
      const double e = element(y.exact, i), v = std::abs(element(x.exact, i));
      if (std::abs(e) < 1e-30) continue;
      if (act == Activation::gelu_tanh && element(x.exact, i) < -5)
        continue;  // 1 + tanh cancels in float64 itself
      // The exponent's own rounding grows with it: about v^2 / 2, and for the tanh form 2u = 1.6 v + 0.07
      // v^3.
      const double exponent = act == Activation::gelu ? v * v / 2 : 1.6 * v + 0.0714 * v * v * v;
      EXPECT_LE(std::abs(element(y.tested, i) / e - 1), 0x1p-23 * (6 + exponent))
          << "at " << element(x.exact, i);
    }
  }
}

TEST_P(ActivationTest, NanInfinityAndZero) {
  const double inf = INFINITY, nan = NAN;
  for (const Activation act : kAll) {
    const Twin x = values({4}, DType::f32, {nan, inf, 0, 100}), y = output({4}, DType::f32);
    cpu().activation(act, x.tested, y.tested);
    EXPECT_TRUE(std::isnan(element(y.tested, 0)));
    if (act == Activation::sigmoid) {
      EXPECT_EQ(element(y.tested, 1), 1);
      EXPECT_EQ(element(y.tested, 2), 0.5);
      EXPECT_EQ(element(y.tested, 3), 1);
      continue;
    }
    EXPECT_EQ(element(y.tested, 1), inf);
    EXPECT_EQ(element(y.tested, 2), 0);
    EXPECT_EQ(element(y.tested, 3), act == Activation::relu2 ? 10000 : 100);
  }
}

TEST_P(ActivationTest, SwigluAgreesWithFloat64) {
  for (const DType dtype : kDTypes)
    for (const std::int64_t rows : {1, 3, 257})
      for (const std::int64_t width : {1, 5, 7, 100, 769}) {
        const Twin x = random({rows, 2 * width}, dtype, 2), y = output({rows, width}, dtype);
        cpu().swiglu(x.tested, y.tested);
        exact().swiglu(x.exact, y.exact);
        expect_close(y, 8, 1, "swiglu");
        const Twin dy = random({rows, width}, dtype), dx = output({rows, 2 * width}, dtype);
        cpu().swiglu_backward(dy.tested, x.tested, dx.tested);
        exact().swiglu_backward(dy.exact, x.exact, dx.exact);
        expect_close(dx, 8, 1, "swiglu_backward");
      }
}

TEST_P(ActivationTest, AddAndScale) {
  for (const DType dtype : kDTypes)
    for (const std::int64_t n : kSizes) {
      const Twin a = random({n}, dtype), b = random({n}, dtype), y = output({n}, dtype);
      cpu().add(a.tested, b.tested, y.tested);
      exact().add(a.exact, b.exact, y.exact);
      expect_close(y, 0, 1, "add");  // one rounding, nothing else
      cpu().add(a.tested, b.tested, b.tested);
      expect_same_bits(b.tested, y.tested, "add in place");
      cpu().scale(a.tested, 0.375, y.tested);
      exact().scale(a.exact, 0.375, y.exact);
      expect_close(y, 0, 1, "scale");
    }
}

TEST_P(ActivationTest, RefusesWhatItDoesNotSupport) {
  const Twin x = random({4}, DType::f32), half = random({4}, DType::bf16), other = random({5}, DType::f32);
  EXPECT_THROW(cpu().activation(Activation::gelu, x.tested, half.tested), std::logic_error);
  EXPECT_THROW(cpu().add(x.tested, other.tested, x.tested), std::logic_error);
  EXPECT_THROW(cpu().activation(Activation::gelu, x.exact, x.exact), std::logic_error);
}

SPECTRAIN_KERNEL_TEST_ALL(ActivationTest);

}  // namespace
}  // namespace spectrain
