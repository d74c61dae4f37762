#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

constexpr DType kDTypes[] = {DType::f32, DType::bf16};
constexpr NormKind kKinds[] = {NormKind::layer, NormKind::rms};

class NormTest : public KernelTest {
 protected:
  // On a GPU every number of packs to a thread is a kernel of its own, and no row needs another.
  std::vector<std::int64_t> rows() const {
    if (on_cpu()) return {1, 3, 257};
    return {1, 19};
  }
  std::vector<std::int64_t> cols() const {
    if (on_cpu()) return {1, 5, 7, 100, 769};
    return {1, 7, 100, 256, 520, 769, 1024};
  }
};

TEST_P(NormTest, ForwardAgreesWithFloat64) {
  for (const DType dtype : kDTypes)
    for (const NormKind kind : kKinds)
      for (const std::int64_t R : rows())
        for (const std::int64_t C : cols())
          for (int parts = 0; parts < 4; ++parts) {
            // A mean of 3 deviations: a variance from the mean of squares would lose three bits and fail.
            const Twin x = random({R, C}, dtype, 1, 3), y = output({R, C}, dtype);
            const Twin gain = parts & 1 ? random({C}, DType::f32, 0.3, 1) : Twin{};
            const Twin bias = parts & 2 ? random({C}, DType::f32) : Twin{};
            const Twin mean = output({R}, DType::f32), rstd = output({R}, DType::f32);
            cpu().norm(kind, x.tested, gain.tested, bias.tested, 1e-5, y.tested, mean.tested, rstd.tested);
            exact().norm(kind, x.exact, gain.exact, bias.exact, 1e-5, y.exact, mean.exact, rstd.exact);
            const double K = static_cast<double>(C);
            // A deviation from the mean inherits the mean's own error: 3 deviations / sqrt(var).
            const double spread =
                C == 1 && kind == NormKind::layer ? 3 / std::sqrt(1e-5) : 3 * (C < 8 ? 20 : 1);
            expect_close(y, 4, K, "norm", 1, spread);
            if (kind == NormKind::layer) expect_close(mean, 2, K, "mean", 1, 3);
            if (C > 8) expect_close(rstd, 8, K, "rstd");
          }
}

TEST_P(NormTest, AddNormIsAddThenNorm) {
  for (const DType dtype : kDTypes)
    for (const NormKind kind : kKinds)
      for (const std::int64_t R : rows())
        for (const std::int64_t C : cols()) {
          const Twin a = random({R, C}, dtype), b = random({R, C}, dtype);
          const Twin gain = random({C}, DType::f32, 0.3, 1), bias = random({C}, DType::f32);
          const Twin sum = output({R, C}, dtype), y = output({R, C}, dtype), y2 = output({R, C}, dtype);
          const Twin mean = output({R}, DType::f32), rstd = output({R}, DType::f32);
          const Twin mean2 = output({R}, DType::f32), rstd2 = output({R}, DType::f32);
          cpu().add(a.tested, b.tested, sum.tested);
          cpu().norm(kind, sum.tested, gain.tested, bias.tested, 1e-5, y.tested, mean.tested, rstd.tested);
          // In place into a, as the residual stream uses it.
          cpu().add_norm(kind, a.tested, b.tested, gain.tested, bias.tested, 1e-5, a.tested, y2.tested,
                         mean2.tested, rstd2.tested);
          expect_same_bits(a.tested, sum.tested, "the sum of add_norm");
          expect_same_bits(y2.tested, y.tested, "add_norm");
          expect_same_bits(rstd2.tested, rstd.tested, "rstd of add_norm");
          if (kind == NormKind::layer) expect_same_bits(mean2.tested, mean.tested, "mean of add_norm");
        }
}

TEST_P(NormTest, BackwardAgreesWithFloat64) {
  for (const DType dtype : kDTypes)
    for (const NormKind kind : kKinds)
      for (const std::int64_t R : rows())
        for (const std::int64_t C : cols())
          for (int parts = 0; parts < 8; ++parts) {
            const Twin x = random({R, C}, dtype, 1, 0.5), dy = random({R, C}, dtype),
                       y = output({R, C}, dtype);
            const Twin gain = parts & 1 ? random({C}, DType::f32, 0.3, 1) : Twin{};
            const Twin mean = output({R}, DType::f32), rstd = output({R}, DType::f32);
            cpu().norm(kind, x.tested, gain.tested, {}, 0.1, y.tested, mean.tested, rstd.tested);
            if (kind == NormKind::layer) widen(mean);
            widen(rstd);
            const bool accumulate = parts & 2, accumulate_parameters = parts & 4;
            const Twin dx = accumulate ? random({R, C}, dtype) : output({R, C}, dtype);
            const auto parameter = [&] {
              return accumulate_parameters ? random({C}, DType::f32) : output({C}, DType::f32);
            };
            const Twin dgain = parts & 1 ? parameter() : Twin{}, dbias = parts & 1 ? parameter() : Twin{};
            cpu().norm_backward(kind, dy.tested, x.tested, gain.tested, mean.tested, rstd.tested, dx.tested,
                                accumulate, dgain.tested, dbias.tested, accumulate_parameters);
            exact().norm_backward(kind, dy.exact, x.exact, gain.exact, mean.exact, rstd.exact, dx.exact,
                                  accumulate, dgain.exact, dbias.exact, accumulate_parameters);
            const double K = static_cast<double>(C), rows = static_cast<double>(R);
            expect_close(dx, 8, K, "dx", 1, 4);  // g - mean - u mean(g u) may cancel to nothing
            if (parts & 1) {
              expect_close(dgain, 2, rows, "dgain", 1, std::sqrt(rows) + 1);
              expect_close(dbias, 2, rows, "dbias", 1, std::sqrt(rows) + 1);
            }
          }
}

// What a warp's registers do not hold, what a block's do not, and lengths that are no multiple of a pack.
TEST_P(NormTest, LongRowsAgreeWithFloat64) {
  const std::int64_t R = 3;
  for (const DType dtype : kDTypes)
    for (const std::int64_t C : {768, 1280, 1792, 2048, 2049, 2056, 4104, 16392})
      for (const NormKind kind : kKinds) {
        const Twin x = random({R, C}, dtype, 1, 3), y = output({R, C}, dtype), dy = random({R, C}, dtype);
        const Twin gain = random({C}, DType::f32, 0.3, 1), bias = random({C}, DType::f32);
        const Twin mean = output({R}, DType::f32), rstd = output({R}, DType::f32);
        const double K = static_cast<double>(C);
        cpu().norm(kind, x.tested, gain.tested, bias.tested, 1e-5, y.tested, mean.tested, rstd.tested);
        exact().norm(kind, x.exact, gain.exact, bias.exact, 1e-5, y.exact, mean.exact, rstd.exact);
        expect_close(y, 4, K, "norm", 1, 3);
        if (kind == NormKind::layer) expect_close(mean, 2, K, "mean", 1, 3);
        expect_close(rstd, 8, K, "rstd");

        const Twin a = random({R, C}, dtype), b = random({R, C}, dtype), sum = output({R, C}, dtype),
                   fused = output({R, C}, dtype);
        cpu().add(a.tested, b.tested, sum.tested);
        cpu().norm(kind, sum.tested, gain.tested, bias.tested, 1e-5, y.tested, {}, {});
        cpu().add_norm(kind, a.tested, b.tested, gain.tested, bias.tested, 1e-5, b.tested, fused.tested, {},
                       {});
        expect_same_bits(b.tested, sum.tested, "the sum of add_norm");
        expect_same_bits(fused.tested, y.tested, "add_norm");

        if (kind == NormKind::layer) widen(mean);
        widen(rstd);
        for (const bool accumulate : {false, true}) {
          const Twin dx = accumulate ? random({R, C}, dtype) : output({R, C}, dtype);
          const Twin dgain = output({C}, DType::f32), dbias = output({C}, DType::f32);
          cpu().norm_backward(kind, dy.tested, x.tested, gain.tested, mean.tested, rstd.tested, dx.tested,
                              accumulate, dgain.tested, dbias.tested, false);
          exact().norm_backward(kind, dy.exact, x.exact, gain.exact, mean.exact, rstd.exact, dx.exact,
                                accumulate, dgain.exact, dbias.exact, false);
          expect_close(dx, 8, K, "dx", 1, 4);
          expect_close(dgain, 2, R, "dgain", 1, std::sqrt(R) + 1);
          expect_close(dbias, 2, R, "dbias", 1, std::sqrt(R) + 1);
        }
      }
}

// Many rows, few columns: more rows than a GPU cuts them into parts, and only one of the two sums wanted.
TEST_P(NormTest, GradientsOfManyRowsAgreeWithFloat64) {
  const std::int64_t R = 2117, C = 16;
  for (const DType dtype : kDTypes)
    for (const bool wants_gain : {true, false}) {
      const Twin x = random({R, C}, dtype, 1, 0.5), dy = random({R, C}, dtype), dx = output({R, C}, dtype),
                 y = output({R, C}, dtype);
      const Twin mean = output({R}, DType::f32), rstd = output({R}, DType::f32),
                 gradient = random({C}, DType::f32);
      cpu().norm(NormKind::layer, x.tested, {}, {}, 0.1, y.tested, mean.tested, rstd.tested);
      widen(mean);
      widen(rstd);
      const auto dgain = wants_gain ? gradient : Twin{}, dbias = wants_gain ? Twin{} : gradient;
      cpu().norm_backward(NormKind::layer, dy.tested, x.tested, {}, mean.tested, rstd.tested, dx.tested,
                          false, dgain.tested, dbias.tested, true);
      exact().norm_backward(NormKind::layer, dy.exact, x.exact, {}, mean.exact, rstd.exact, dx.exact, false,
                            dgain.exact, dbias.exact, true);
      expect_close(dx, 8, C, "dx", 1, 4);
      expect_close(gradient, 2, R, "the gradient", 1, std::sqrt(R) + 1);
    }
}

TEST_P(NormTest, FewBlocksGiveTheBitsOfMany) {
  if (on_cpu()) GTEST_SKIP() << "about the blocks of a GPU";
  const auto one = tested_with_one_block();
  if (!one) GTEST_SKIP() << "no GPU";
  const std::int64_t R = 53;
  for (const std::int64_t C : {96, 99, 2056, 4099}) {
    const Twin x = random({R, C}, DType::bf16), dy = random({R, C}, DType::bf16),
               gain = random({C}, DType::f32);
    std::vector<Twin> outputs[2];
    for (int i = 0; i < 2; ++i) {
      Backend& backend = i == 0 ? cpu() : *one;
      const Twin y = output({R, C}, DType::bf16), dx = output({R, C}, DType::bf16),
                 mean = output({R}, DType::f32), rstd = output({R}, DType::f32),
                 dgain = output({C}, DType::f32), dbias = output({C}, DType::f32);
      backend.norm(NormKind::layer, x.tested, gain.tested, {}, 1e-5, y.tested, mean.tested, rstd.tested);
      backend.norm_backward(NormKind::layer, dy.tested, x.tested, gain.tested, mean.tested, rstd.tested,
                            dx.tested, false, dgain.tested, dbias.tested, false);
      outputs[i] = {y, mean, rstd, dx, dgain, dbias};
    }
    for (std::size_t i = 0; i < outputs[0].size(); ++i)
      expect_same_bits(outputs[0][i].tested, outputs[1][i].tested, "output " + std::to_string(i));
  }
}

TEST_P(NormTest, BackwardGivesTheSameBitsAgain) {
  const std::int64_t R = 257, C = 769;
  const Twin x = random({R, C}, DType::bf16), dy = random({R, C}, DType::bf16),
             gain = random({C}, DType::f32);
  const Twin mean = random({R}, DType::f32), rstd = random({R}, DType::f32, 0.1, 1);
  const Twin dx = output({R, C}, DType::bf16), first = output({C}, DType::f32),
             again = output({C}, DType::f32);
  for (const Twin& dgain : {first, again})
    cpu().norm_backward(NormKind::layer, dy.tested, x.tested, gain.tested, mean.tested, rstd.tested,
                        dx.tested, false, dgain.tested, {}, false);
  expect_same_bits(first.tested, again.tested, "dgain");
}

TEST_P(NormTest, RefusesABackwardPassWithoutStatistics) {
  const Twin x = random({2, 3}, DType::f32);
  EXPECT_THROW(
      cpu().norm_backward(NormKind::rms, x.tested, x.tested, {}, {}, {}, x.tested, false, {}, {}, false),
      std::logic_error);
}

SPECTRAIN_KERNEL_TEST_ALL(NormTest);

}  // namespace
}  // namespace spectrain
