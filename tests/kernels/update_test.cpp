#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

constexpr std::int64_t kSizes[] = {1, 5, 7, 100, 769, 70001};

class UpdateTest : public KernelTest {};

TEST_P(UpdateTest, AdamWOverTenSteps) {
  for (const std::int64_t n : kSizes) {
    AdamWStep s;
    s.lr = 0.01;
    s.eps = 1e-10;
    s.weight_decay = 0.1;
    s.gradient_scale = 0.5;
    const Twin w = random({n}, DType::f32), m = space({n}, DType::f32), v = space({n}, DType::f32);
    for (const Twin& t : {m, v}) {
      cpu().fill(t.tested, 0);
      widen(t);
    }
    for (s.step = 1; s.step <= 10; ++s.step) {
      const Twin g = random({n}, DType::f32);
      cpu().adamw(s, w.tested, g.tested, m.tested, v.tested);
      exact().adamw(s, w.exact, g.exact, m.exact, v.exact);
    }
    expect_close(w, 2, 10, "w", 1, 1);
    expect_close(m, 2, 10, "m", 1, 0.2);
    expect_close(v, 2, 10, "v");
  }
}

// A decay far below the resolution of "1 - decay" in float must have its full size on average: each weight
// rounds its own way, the mean over many does not. The factor rounded to float would be wrong by 1.1e-8.
TEST_P(UpdateTest, ATinyDecayKeepsItsSize) {
  const std::int64_t n = 1 << 16;
  const double decay = 1.3e-6;
  AdamWStep s;
  s.lr = 1;
  s.weight_decay = decay;
  const Twin w = space({n}, DType::f32), v = space({n}, DType::f32), zero = space({n}, DType::f32);
  const Twin m = space({n}, DType::f32), second = space({n}, DType::f32);
  for (const Twin& t : {zero, m, second}) cpu().fill(t.tested, 0);
  for (const Twin& t : {w, v}) {
    cpu().fill_uniform(t.tested, {1, 1}, 0.5f, 1);
    widen(t);
  }
  cpu().apply_update(w.tested, 1 - decay, 0, zero.tested);
  cpu().adamw(s, v.tested, zero.tested, m.tested, second.tested);
  for (const Twin& t : {w, v}) {
    double mean = 0;
    for (std::int64_t i = 0; i < n; ++i)
      mean += (1 - element(t.tested, i) / element(t.exact, i)) / static_cast<double>(n);
    EXPECT_NEAR(mean, decay, 1e-9);
  }
}

TEST_P(UpdateTest, EmaMomentum) {
  for (const std::int64_t n : kSizes)
    for (const bool nesterov : {false, true})
      for (const DType dtype : {DType::f32, DType::bf16}) {
        const Twin g = random({n}, DType::f32), m = random({n}, DType::f32), u = output({n}, dtype);
        cpu().ema_momentum(g.tested, 0.7, 0.95, nesterov, m.tested, u.tested);
        exact().ema_momentum(g.exact, 0.7, 0.95, nesterov, m.exact, u.exact);
        expect_close(m, 2, 1, "m");
        expect_close(u, 3, 1, "u");
      }
}

TEST_P(UpdateTest, ApplyUpdate) {
  for (const std::int64_t n : kSizes)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const double keep : {0.0, 0.25, 0.999, 1.0, 2.0}) {
        const Twin w = random({n}, DType::f32), u = random({n}, dtype);
        cpu().apply_update(w.tested, keep, 0.02, u.tested);
        exact().apply_update(w.exact, keep, 0.02, u.exact);
        expect_close(w, 2, 1, "apply_update", 1, 0.02 * 4.5);  // keep w may cancel against the largest step u
      }
}

TEST_P(UpdateTest, AxpbyOfEveryPairOfDTypes) {
  for (const DType from : {DType::f64, DType::f32, DType::bf16})
    for (const DType to : {DType::f64, DType::f32, DType::bf16})
      for (const std::int64_t n : {1, 7, 769, 70001}) {
        const Twin x = random({n}, from), y = random({n}, to);
        cpu().axpby(0.3, x.tested, -1.7, y.tested);
        exact().axpby(0.3, x.exact, -1.7, y.exact);
        expect_close(y, from == DType::f64 || to == DType::f64 ? 0.001 : 3, 1, "axpby");
        const Twin z = output({n}, to);  // NaN: with b = 0 it must not be read
        cpu().axpby(0.5, x.tested, 0, z.tested);
        exact().axpby(0.5, x.exact, 0, z.exact);
        expect_close(z, 0.001, 1, "axpby into uninitialised memory");
      }
}

SPECTRAIN_KERNEL_TEST(UpdateTest);

}  // namespace
}  // namespace spectrain
