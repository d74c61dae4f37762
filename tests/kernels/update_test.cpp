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
      cpu().adamw(s, {{w.tested, g.tested, m.tested, v.tested}});
      exact().adamw(s, {{w.exact, g.exact, m.exact, v.exact}});
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
  cpu().apply_update(1 - decay, 0, {{w.tested, zero.tested}});
  cpu().adamw(s, {{v.tested, zero.tested, m.tested, second.tested}});
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
        cpu().ema_momentum({0.95, nesterov, {}, 0.7}, {{g.tested, m.tested, u.tested}});
        exact().ema_momentum({0.95, nesterov, {}, 0.7}, {{g.exact, m.exact, u.exact}});
        expect_close(m, 2, 1, "m");
        expect_close(u, 3, 1, "u");
      }
}

TEST_P(UpdateTest, ApplyUpdate) {
  for (const std::int64_t n : kSizes)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const double keep : {0.0, 0.25, 0.999, 1.0, 2.0}) {
        const Twin w = random({n}, DType::f32), u = random({n}, dtype);
        cpu().apply_update(keep, 0.02, {{w.tested, u.tested}});
        exact().apply_update(keep, 0.02, {{w.exact, u.exact}});
        expect_close(w, 2, 1, "apply_update", 1, 0.02 * 4.5);  // keep w may cancel against the largest step u
      }
}

// Many tensors at once, more than one launch takes: sizes around a block's piece, none at all, and addresses
// that only single elements fit.
TEST_P(UpdateTest, ManyTensorsAreUpdatedAsEachByItself) {
  std::vector<AdamWPart> adamw, adamw_alone;
  std::vector<MomentumPart> momentum, momentum_alone;
  std::vector<UpdatePart> update, update_alone;
  for (int i = 0; i < 200; ++i) {
    const std::int64_t sizes[] = {3, 0, 4096, 5, 4097, 8, 70, 12289}, n = sizes[i % 8];
    const std::int64_t shift = i % 3;  // elements
    const auto numbers = [&](DType dtype) {
      const Tensor all = random({n + 3}, dtype).tested;
      return Tensor(static_cast<std::byte*>(all.data) + static_cast<std::size_t>(shift) * size_of(dtype),
                    dtype, {n});
    };
    const auto copy_of = [&](const Tensor& x) {
      const Tensor all = space({n + 3}, x.dtype).tested;
      const Tensor y(static_cast<std::byte*>(all.data) + static_cast<std::size_t>(shift) * size_of(x.dtype),
                     x.dtype, {n});
      if (n > 0) std::memcpy(y.data, x.data, x.bytes());
      return y;
    };
    const Tensor w = numbers(DType::f32), g = numbers(DType::f32), m = numbers(DType::f32);
    const Tensor v = numbers(DType::f32), u = numbers(DType::bf16);
    for (std::int64_t k = 0; k < n; ++k) v.as<float>()[k] = std::abs(v.as<float>()[k]);
    adamw.push_back({w, g, m, v});
    adamw_alone.push_back({copy_of(w), copy_of(g), copy_of(m), copy_of(v)});
    momentum.push_back({g, m, u});
    momentum_alone.push_back({adamw_alone.back().g, adamw_alone.back().m, copy_of(u)});
    update.push_back({w, u});
    update_alone.push_back({adamw_alone.back().w, momentum_alone.back().u});
  }
  AdamWStep s;
  s.lr = 0.1;
  cpu().adamw(s, adamw);
  cpu().ema_momentum({0.9, true, {}, 0.7}, momentum);
  cpu().apply_update(0.9, 0.1, update);
  for (std::size_t i = 0; i < adamw.size(); ++i) {
    cpu().adamw(s, {adamw_alone[i]});
    cpu().ema_momentum({0.9, true, {}, 0.7}, {momentum_alone[i]});
    cpu().apply_update(0.9, 0.1, {update_alone[i]});
    expect_same_bits(adamw[i].w, adamw_alone[i].w, "w");
    expect_same_bits(adamw[i].m, adamw_alone[i].m, "m");
    expect_same_bits(adamw[i].v, adamw_alone[i].v, "v");
    expect_same_bits(momentum[i].u, momentum_alone[i].u, "u");
  }
  cpu().adamw(s, std::span<const AdamWPart>());
  cpu().ema_momentum({0.9, true, {}, 1}, std::span<const MomentumPart>());
  cpu().apply_update(1, 1, std::span<const UpdatePart>());
}

// A factor in the backend's memory does what the same number does; NaN: nothing happens.
TEST_P(UpdateTest, AScaleThatTheHostHasNotSeen) {
  for (const double late : {0.4, static_cast<double>(NAN)}) {
    const Tensor number(const_cast<double*>(&late), DType::f64, {1});
    const std::int64_t n = 4099;
    const Twin g = random({n}, DType::f32);
    std::vector<Tensor> before, known, unseen;  // w, m, v, momentum, u, weight
    for (int i = 0; i < 6; ++i) {
      before.push_back(random({n}, i == 4 ? DType::bf16 : DType::f32).tested);
      for (auto* list : {&known, &unseen}) {
        list->push_back(space({n}, before.back().dtype).tested);
        std::memcpy(list->back().data, before.back().data, before.back().bytes());
      }
    }
    const auto run = [&](const std::vector<Tensor>& t, const Number& scale, const Tensor& permit) {
      AdamWStep s;
      s.lr = 0.1;
      s.weight_decay = 0.1;
      s.gradient_scale = scale;
      cpu().adamw(s, {{t[0], g.tested, t[1], t[2]}});
      cpu().ema_momentum({0.9, true, {}, scale}, {{g.tested, t[3], t[4]}});
      cpu().apply_update(0.9, 0.1, {{t[5], t[4]}}, permit);
    };
    for (const auto* list : {&before, &known, &unseen})
      for (std::int64_t i = 0; i < n; ++i) (*list)[2].as<float>()[i] = std::abs((*list)[2].as<float>()[i]);
    run(unseen, {0.5, number}, number);
    if (std::isnan(late)) {
      for (std::size_t i = 0; i < 6; ++i) expect_same_bits(unseen[i], before[i], "not to be changed");
      continue;
    }
    run(known, 0.5 * late, {});
    for (std::size_t i = 0; i < 6; ++i) {
      expect_same_bits(unseen[i], known[i], "changed as by the number");
      EXPECT_NE(std::memcmp(unseen[i].data, before[i].data, before[i].bytes()), 0) << i;
    }
  }
}

// The numbers of a step, found in the backend's memory, do what they do as arguments. A decay above 1/2 takes
// the other way of the two that keep has.
TEST_P(UpdateTest, NumbersOfAStepInTheBackendsMemory) {
  for (const double keep : {0.999, 0.3}) {
    const std::int64_t n = 4099;
    const Twin g = random({n}, DType::f32);
    std::vector<Tensor> known, late;  // w, m, v, momentum, u, weight
    for (int i = 0; i < 6; ++i) {
      const Twin start = random({n}, i == 4 ? DType::bf16 : DType::f32);
      for (std::int64_t e = 0; i == 2 && e < n; ++e)
        start.tested.as<float>()[e] = std::abs(start.tested.as<float>()[e]);
      for (auto* list : {&known, &late}) {
        list->push_back(space({n}, start.tested.dtype).tested);
        std::memcpy(list->back().data, start.tested.data, start.tested.bytes());
      }
    }
    const auto run = [&](const std::vector<Tensor>& t, const AdamWStep& adamw, const MomentumStep& momentum,
                         const Number& kept, const Number& step) {
      cpu().adamw(adamw, {{t[0], g.tested, t[1], t[2]}});
      cpu().ema_momentum(momentum, {{g.tested, t[3], t[4]}});
      cpu().apply_update(kept, step, {{t[5], t[4]}});
    };
    AdamWStep s;
    s.lr = 0.1;
    s.weight_decay = 0.1;
    s.step = 3;
    auto rates = s.rates();
    EXPECT_THAT(rates, testing::ElementsAre(0.1, 1 - std::pow(0.9, 3), 1 - std::pow(0.95, 3)));
    run(known, s, {0.7, true, 1 / 0.3, 0.5}, keep, 0.04);
    double numbers[] = {0.7, 1 / 0.3, keep, 0.02};
    const auto number = [&](int i) { return Tensor(numbers + i, DType::f64, {1}); };
    s.lr = 7, s.step = 1000;  // not those that count
    s.late_rates = Tensor(rates.data(), DType::f64, {3});
    run(late, s, {{1, number(0)}, true, {1, number(1)}, 0.5}, {1, number(2)}, {2, number(3)});
    for (std::size_t i = 0; i < 6; ++i) expect_same_bits(late[i], known[i], "changed as by the arguments");
  }
}

TEST_P(UpdateTest, TheClipFactor) {
  constexpr double kInf = std::numeric_limits<double>::infinity(), kNan = NAN;
  const auto factor = [&](double squares, double loss, double clip, double& over) {
    double verdict[] = {7, over};
    const auto number = [](double& x) { return Tensor(&x, DType::f64, {1}); };
    cpu().clip_factor(number(squares), number(loss), clip, Tensor(verdict, DType::f64, {2}));
    over = verdict[1];
    return verdict[0];
  };
  double over = 0;
  EXPECT_EQ(factor(25, 3, 0, over), 1);
  EXPECT_EQ(factor(25, 3, 1, over), 0.2);
  EXPECT_EQ(factor(25, 3, 5, over), 1);
  EXPECT_EQ(factor(2, -3, 0.7, over), 0.7 / std::sqrt(2.0));
  EXPECT_EQ(factor(0, 3, 1, over), 1);
  EXPECT_EQ(factor(1e300, 1e300, 1, over), 1e-150);
  for (const double squares : {kInf, kNan}) EXPECT_TRUE(std::isnan(factor(squares, 3, 1, over)));
  EXPECT_EQ(over, 0) << "a gradient may be skipped";
  EXPECT_EQ(factor(25, 3, 1, over), 0.2);
  for (const double loss : {kInf, -kInf, kNan}) {
    over = 0;
    EXPECT_TRUE(std::isnan(factor(25, loss, 1, over)));
    EXPECT_EQ(over, 1);
    EXPECT_TRUE(std::isnan(factor(25, 3, 1, over))) << "a loss ends the run";
    EXPECT_EQ(over, 1);
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

// Batches and single matrices, odd sizes that no pack fits, matrices longer than what one block adds; one of
// them zero.
TEST_P(UpdateTest, NormalizesEachMatrixOfABatch) {
  std::vector<DType> to = {DType::f32, DType::bf16};
  if (!on_cpu()) to.push_back(DType::f16);
  for (const Shape& shape :
       std::vector<Shape>{{1, 1}, {7, 5}, {4, 12, 8}, {3, 5, 7}, {2, 130, 129}, {2, 130, 260}})
    for (const DType from : {DType::f32, DType::bf16})
      for (const DType dtype : to) {
        const Twin x = random(shape, from), y = output(shape, dtype);
        if (shape.rank() == 3) {
          cpu().fill(x.tested.matrix(1), 0);
          widen(x);
        }
        cpu().normalize(x.tested, 1.05, y.tested);
        exact().normalize(x.exact, 1.05, y.exact);
        // Halves below 6e-5 are 2^-24 apart, whatever their size.
        expect_close(y, 2, 1, "normalize", 1, dtype == DType::f16 ? 0.125 : 0);
        if (from != dtype) continue;
        cpu().normalize(x.tested, 1.05, x.tested);
        expect_same_bits(x.tested, y.tested, "in place");
      }
  const Twin x = random({2, 3, 3}, DType::f32), y = output({2, 3, 3}, DType::f32);
  x.tested.as<float>()[3] = NAN;
  cpu().normalize(x.tested, 1, y.tested);
  for (std::int64_t i = 0; i < 18; ++i) EXPECT_EQ(std::isnan(element(y.tested, i)), i < 9);
}

TEST_P(UpdateTest, FewBlocksEqualManyBitForBit) {
  if (on_cpu()) GTEST_SKIP() << "a processor has no blocks";
  const auto one = tested_with_one_block();
  const Shape shape{3, 150, 131};
  const Twin x = random(shape, DType::f32), y = output(shape, DType::bf16), z = output(shape, DType::bf16);
  cpu().normalize(x.tested, 1, y.tested);
  one->normalize(x.tested, 1, z.tested);
  expect_same_bits(y.tested, z.tested, "normalize");
}

TEST_P(UpdateTest, AGpuTakesHalvesAsWell) {
  if (on_cpu()) GTEST_SKIP() << "f16 is a GPU's";
  const Twin w = random({769}, DType::f32), u = random({769}, DType::f16), y = output({769}, DType::f16);
  cpu().apply_update(0.999, 0.02, {{w.tested, u.tested}});
  exact().apply_update(0.999, 0.02, {{w.exact, u.exact}});
  expect_close(w, 2, 1, "apply_update", 1, 0.02 * 4.5);
  cpu().axpby(0.3, w.tested, 0, y.tested);
  widen(w);
  exact().axpby(0.3, w.exact, 0, y.exact);
  expect_close(y, 3, 1, "axpby");
}

SPECTRAIN_KERNEL_TEST_ALL(UpdateTest);

}  // namespace
}  // namespace spectrain
