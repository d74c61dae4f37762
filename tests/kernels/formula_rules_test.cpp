#include <functional>
#include <thread>

#include "tests/kernels/formula_cases.h"

namespace spectrain {
namespace {

class FormulaRulesTest : public FormulaCases {};

// ---- rules

TEST_P(FormulaRulesTest, AdamWAsAFormula) {
  Formula f;
  const Term w = f.tensor(0), g = f.tensor(1) * f.number(0), m = f.tensor(2), v = f.tensor(3);
  const Term lr = f.number(1), b1 = f.number(2), b2 = f.number(3), eps = f.number(4), decay = f.number(5);
  const Term c1 = f.number(6), c2 = f.number(7);
  const Term m1 = b1 * m + (1 - b1) * g, v1 = b2 * v + (1 - b2) * square(g);
  f.assign(0, w - (lr * decay * w + lr / c1 * m1 / (sqrt(v1) * (1 / sqrt(c2)) + eps)));
  f.assign(2, m1);
  f.assign(3, v1);
  for (const std::int64_t n : {1, 7, 769, 70001}) {
    AdamWStep s;
    s.lr = 0.01;
    s.eps = 1e-10;
    s.weight_decay = 0.1;
    s.gradient_scale = 0.5;
    const Twin tw = random({n}, DType::f32), tm = space({n}, DType::f32), tv = space({n}, DType::f32);
    for (const Twin& t : {tm, tv}) {
      cpu().fill(t.tested, 0);
      widen(t);
    }
    for (s.step = 1; s.step <= 10; ++s.step) {
      const Twin tg = random({n}, DType::f32);
      const double t = static_cast<double>(s.step);
      const std::vector<double> numbers = {
          s.gradient_scale.value,        s.lr, s.beta1, s.beta2, s.eps, s.weight_decay, 1 - std::pow(s.beta1, t),
          1 - std::pow(s.beta2, t)};
      cpu().evaluate(f, numbers, tested({tw, tg, tm, tv}));
      exact().adamw(s, {{tw.exact, tg.exact, tm.exact, tv.exact}});
    }
    expect_close(tw, 2, 10, "w", 1, 1);
    expect_close(tm, 2, 10, "m", 1, 0.2);
    expect_close(tv, 2, 10, "v");
  }
}

TEST_P(FormulaRulesTest, LionAsAFormula) {
  Formula f;
  const Term w = f.tensor(0), g = f.tensor(1), m = f.tensor(2);
  const Term lr = f.number(0), decay = f.number(1), b1 = f.number(2), b2 = f.number(3);
  f.assign(2, b2 * m + (1 - b2) * g);
  f.assign(0, w - lr * (decay * w + sign(b1 * m + (1 - b1) * g)));
  for (const std::int64_t n : {5, 769, 10007}) {
    const Twin tw = random({n}, DType::f32), tg = random({n}, DType::f32), tm = random({n}, DType::f32);
    std::vector<double> wanted, momentum;
    for (std::int64_t i = 0; i < n; ++i) {
      const double x = element(tw.exact, i), y = element(tg.exact, i), z = element(tm.exact, i);
      const double u = 0.9 * z + (1 - 0.9) * y;
      wanted.push_back(x - 0.001 * (0.1 * x + (u > 0 ? 1 : -1)));
      momentum.push_back(0.99 * z + (1 - 0.99) * y);
    }
    cpu().evaluate(f, std::vector<double>{0.001, 0.1, 0.9, 0.99}, tested({tw, tg, tm}));
    for (std::int64_t i = 0; i < n; ++i) {
      const auto at = static_cast<std::size_t>(i);
      tw.exact.as<double>()[i] = wanted[at];
      tm.exact.as<double>()[i] = momentum[at];
    }
    expect_close(tw, 2, 1, "w");
    expect_close(tm, 2, 1, "m");
  }
}

// ---- mistakes

std::string message_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::logic_error& e) {
    return e.what();
  }
  return "no error";
}

TEST_P(FormulaRulesTest, MistakesAreNamed) {
  const Twin x = random({4, 6}, DType::f32), y = random({4, 6}, DType::f32), t = random({6, 4}, DType::f32);
  const Twin small = random({5}, DType::f32), rows = random({4}, DType::f32),
             whole = random_tokens({4, 6}, 5);
  const auto message = [&](const std::vector<Twin>& twins, const std::vector<double>& numbers,
                           const std::function<void(Formula&)>& write) {
    return message_of([&] {
      Formula f;
      write(f);
      cpu().evaluate(f, numbers, tested(twins));
    });
  };
  const auto sum_of_two = [](Formula& f) {
    const Term a = f.tensor(0), b = f.tensor(1);
    f.assign(0, a + b);
  };
  EXPECT_EQ(message({x}, {}, sum_of_two), "evaluate: the formula names 2 tensors, it got 1");
  EXPECT_EQ(message({x, y}, {1}, sum_of_two), "evaluate: the formula names 0 numbers, it got 1");
  EXPECT_EQ(message({x, small}, {}, sum_of_two), "evaluate: tensor 0 is [4, 6], tensor 1 is [5]");
  EXPECT_EQ(message({x, t}, {}, sum_of_two), "no error");  // where rows end does not matter
  EXPECT_EQ(message({x, whole}, {}, sum_of_two),
            on_cpu() ? "evaluate: tensor 1 [4, 6] is i32, formulas take f32 and bf16"
                     : "evaluate: tensor 1 [4, 6] is i32, formulas take f32, bf16 and f16");
  const auto with_rows = [](Formula& f) { f.assign(0, f.tensor(1) + f.tensor(2, Extent::rows)); };
  EXPECT_EQ(message({x, t, rows}, {}, with_rows), "evaluate: tensor 1 is [6, 4], tensor 0 is [4, 6]");
  EXPECT_EQ(message({x, y, small}, {}, with_rows),
            "evaluate: tensor 2 must be 4 elements of f32, one for each row, it is f32 [5]");
  EXPECT_EQ(message({x}, {}, [](Formula& f) { f.tensor(0); }), "evaluate: the formula assigns nothing");
  EXPECT_EQ(message({x}, {},
                    [](Formula& f) {
                      f.assign(0, f.tensor(0));
                      f.assign(0, f.tensor(0) + 1.0);
                    }),
            "evaluate: the formula assigns to a tensor twice");
  Formula f;
  f.sum_of(f.tensor(0));
  const std::vector<double> none;
  const auto reduce = [&](Extent over, const Tensor& out) {
    return message_of([&] { cpu().reduce(f, none, tested({x}), over, out); });
  };
  EXPECT_EQ(reduce(Extent::rows, rows.tested), "no error");
  EXPECT_EQ(reduce(Extent::columns, rows.tested), "reduce: out must be 6 elements of f32, it is f32 [4]");
  EXPECT_EQ(reduce(Extent::elements, x.tested), "reduce: sums are over rows, columns or all (Extent::one)");
}

// On the processor alone: elsewhere the tests' own memory stands between.
TEST_P(FormulaRulesTest, TensorsThatOverlapInPartAreRefused) {
  if (!on_cpu()) GTEST_SKIP() << "the same check";
  const Twin x = random({8, 6}, DType::f32);
  const std::vector<double> none;
  Formula f;
  f.assign(0, f.tensor(1) + 1.0);
  f.sum_of(f.tensor(0));
  const Tensor low = x.tested.slice_rows(0, 4), middle = x.tested.slice_rows(2, 4);
  EXPECT_EQ(message_of([&] {
              cpu().evaluate(f, none, std::vector<Tensor>{low, middle});
            }),
            "evaluate: an output overlaps tensor 1 in part");
  EXPECT_EQ(message_of([&] { cpu().evaluate(f, none, std::vector<Tensor>{low, low}); }), "no error");
  EXPECT_EQ(
      message_of([&] {
        cpu().reduce(f, none, std::vector<Tensor>{low, low}, Extent::one, low.slice_rows(0, 1).reshaped({6}));
      }),
      "reduce: out must be 1 elements of f32, it is f32 [6]");
  EXPECT_EQ(message_of([&] {
              cpu().reduce(f, none, std::vector<Tensor>{low, low}, Extent::columns,
                           low.slice_rows(0, 1).reshaped({6}));
            }),
            "reduce: out overlaps tensor 0, which it reads");
}

TEST_P(FormulaRulesTest, NoElements) {
  const Twin x = random({0, 5}, DType::f32), out = output({5}, DType::f32), one = output({1}, DType::f32);
  Formula f;
  f.assign(0, f.tensor(0) + 1.0);
  f.sum_of(f.tensor(0));
  const std::vector<double> none;
  cpu().evaluate(f, none, tested({x}));
  cpu().reduce(f, none, tested({x}), Extent::columns, out.tested);
  cpu().reduce(f, none, tested({x}), Extent::one, one.tested);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(element(out.tested, i), 0);
  EXPECT_EQ(element(one.tested, 0), 0);
}

SPECTRAIN_KERNEL_TEST_ALL(FormulaRulesTest);

// ---- the program

TEST(FormulaProgram, DropsMergesFusesAndKeepsFewRegisters) {
  Formula f;
  const Term w = f.tensor(0), g = f.tensor(1), m = f.tensor(2), v = f.tensor(3);
  const Term lr = f.number(0), b1 = f.number(1), b2 = f.number(2);
  const Term m1 = b1 * m + (1 - b1) * g, v1 = b2 * v + (1 - b2) * square(g);
  sqrt(w * 7.0 + g);  // of no use
  const Term again = b1 * f.tensor(2) + (1 - b1) * f.tensor(1);
  f.assign(0, w - lr * (0.1 * w + again / (sqrt(v1) + 1e-8)));
  f.assign(2, m1);
  f.assign(3, v1);
  for (const Formula::Use use : {Formula::Use::evaluate, Formula::Use::evaluate_on_device}) {
    const auto program = f.program(use);
    // 4 loads, 3 stores; m: 2, v: 3, w: root, sum, quotient, product, difference.
    EXPECT_EQ(program->steps().size(), 4u + 3 + 2 + 3 + 5);
    EXPECT_LE(program->registers(), 5);
    EXPECT_EQ(program, f.program(use)) << "made once";
  }
}

TEST(FormulaProgram, IsMadeAnewWhenTheFormulaHasChanged) {
  const auto cpu = make_cpu_backend({.threads = 1});
  float x = 3, total = 0;
  const std::vector<Tensor> tensors = {Tensor(&x, DType::f32, {1})};
  const std::vector<double> none;
  Formula f;
  const Term t = f.tensor(0), twice = t + t;
  f.sum_of(t);
  cpu->reduce(f, none, tensors, Extent::one, Tensor(&total, DType::f32, {1}));
  EXPECT_EQ(total, 3);
  f.sum_of(twice);
  cpu->reduce(f, none, tensors, Extent::one, Tensor(&total, DType::f32, {1}));
  EXPECT_EQ(total, 6);
}

TEST(FormulaProgram, ThreadsMayShareAFormula) {
  Formula f;
  f.assign(0, f.tensor(0) + 1.0);
  std::vector<float> x(4, 0);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 4; ++i)
    threads.emplace_back([&, i] {
      const auto cpu = make_cpu_backend({.threads = 1});
      const std::vector<Tensor> tensors = {Tensor(&x[i], DType::f32, {1})};
      const std::vector<double> none;
      for (int k = 0; k < 100; ++k) cpu->evaluate(f, none, tensors);
    });
  for (std::thread& t : threads) t.join();
  for (const float v : x) EXPECT_EQ(v, 100);
}

}  // namespace
}  // namespace spectrain
