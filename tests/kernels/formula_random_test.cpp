#include "tests/kernels/formula_cases.h"

namespace spectrain {
namespace {

// Random formulas against float64, with a bound of the error that is carried along.

using Op = Formula::Op;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

class FormulaRandomTest : public FormulaCases {};

// What float32 may make of an exact value: within `error` of it; infinite where it could be anything.
struct Bounded {
  double value, error;
};
Bounded rounded(double value, double error) {
  return {value, error + std::abs(value) * 0x1p-24 + error * 0x1p-23 + 1e-38};
}
Bounded apply(Op op, const Bounded& a, const Bounded& b, const Bounded& c) {
  switch (op) {
    case Op::add:
      return rounded(a.value + b.value, a.error + b.error);
    case Op::subtract:
      return rounded(a.value - b.value, a.error + b.error);
    case Op::multiply:
      return rounded(a.value * b.value,
                     std::abs(a.value) * b.error + std::abs(b.value) * a.error + a.error * b.error);
    case Op::divide: {
      const double least = std::abs(b.value) - b.error, q = a.value / b.value;
      return least > 0 ? rounded(q, (a.error + std::abs(q) * b.error) / least) : Bounded{q, kInf};
    }
    case Op::least:
      return {std::fmin(a.value, b.value), std::fmax(a.error, b.error)};
    case Op::greatest:
      return {std::fmax(a.value, b.value), std::fmax(a.error, b.error)};
    case Op::above: {
      const bool clear = std::abs(a.value - b.value) > a.error + b.error || a.error + b.error == 0;
      return {a.value > b.value ? 1.0 : 0.0, clear ? 0 : kInf};
    }
    case Op::square_root: {
      const double root = std::sqrt(a.value);
      return a.value - a.error > 0 ? rounded(root, root - std::sqrt(a.value - a.error)) : Bounded{root, kInf};
    }
    case Op::absolute:
      return {std::abs(a.value), a.error};
    case Op::sign:
      return {a.value > 0   ? 1.0
              : a.value < 0 ? -1.0
                            : 0.0,
              std::abs(a.value) > a.error || a.error == 0 ? 0 : kInf};
    case Op::choose:
      if (std::abs(a.value) <= a.error && a.error > 0) return {0, kInf};
      return a.value != 0 ? b : c;
    default:
      return {0, kInf};
  }
}

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : key_{77, seed} {}
  int below(int n) { return static_cast<int>(random_u32(key_, count_++) % static_cast<std::uint32_t>(n)); }
  double real() { return static_cast<double>(uniform_at(key_, count_++, -2, 2)); }

 private:
  RandomKey key_;
  std::uint64_t count_ = 0;
};

// Tensors 0, 1: elements; 2: rows; 3: columns; 4: one; 5, 6: outputs. Numbers 0 .. 2.
void make_random(Formula& f, Dice& dice, int operations) {
  constexpr Extent kExtents[] = {Extent::elements, Extent::elements, Extent::rows, Extent::columns,
                                 Extent::one};
  std::vector<Term> terms;
  for (int t = 0; t < 5; ++t) terms.push_back(f.tensor(t, kExtents[t]));
  for (int n = 0; n < 3; ++n) terms.push_back(f.number(n));
  for (int i = 0; i < operations; ++i) {
    const auto any = [&] {
      // The newest more often: deep formulas.
      const int n = static_cast<int>(terms.size());
      const int k = dice.below(3) == 0 ? n - 1 - dice.below(n < 4 ? n : 4) : dice.below(n);
      return dice.below(12) == 0 ? f.constant(dice.real()) : terms[static_cast<std::size_t>(k)];
    };
    const Op op = static_cast<Op>(static_cast<int>(Op::add) + dice.below(11));
    const Term a = any(), b = any(), c = any();
    terms.push_back(op == Op::square_root ? sqrt(abs(a)) : f.operation(op, a, b, c));
  }
  f.assign(5, terms.back());
  f.assign(6, terms[terms.size() - 2]);
  f.assign(0, terms[terms.size() - 3]);
  f.sum_of(terms.back());
}

std::vector<Bounded> bounds(const Formula& f, const std::vector<double>& numbers,
                            const std::vector<Twin>& twins, const Shape& shape, std::int64_t i) {
  std::vector<Bounded> all;
  for (const Formula::Node& n : f.nodes()) {
    const auto in = [&](std::int32_t k) { return k < 0 ? Bounded{0, 0} : all[static_cast<std::size_t>(k)]; };
    if (n.op == Op::tensor) {
      const std::int64_t row = i / shape.cols(), col = i % shape.cols();
      const std::int64_t at = n.extent == Extent::elements  ? i
                              : n.extent == Extent::rows    ? row
                              : n.extent == Extent::columns ? col
                                                            : 0;
      all.push_back({element(twins[static_cast<std::size_t>(n.index)].exact, at), 0});
    } else if (n.op == Op::number || n.op == Op::constant) {
      all.push_back(rounded(n.op == Op::number ? numbers[static_cast<std::size_t>(n.index)] : n.value, 0));
    } else {
      all.push_back(apply(n.op, in(n.a), in(n.b), in(n.c)));
    }
  }
  return all;
}

TEST_P(FormulaRandomTest, RandomFormulasStayWithinTheirErrorBounds) {
  std::int64_t checked = 0, unclear = 0;
  for (int trial = 0; trial < 60; ++trial) {
    Dice dice(static_cast<std::uint64_t>(trial));
    const Shape shape = trial % 3 == 0 ? Shape{33, 17} : trial % 3 == 1 ? Shape{4, 530} : Shape{60, 8};
    Formula f;
    make_random(f, dice, 3 + trial);
    const std::vector<double> numbers = {dice.real(), dice.real(), dice.real()};
    const Twin x = random(shape, DType::f32), y = random(shape, trial % 2 == 0 ? DType::f32 : DType::bf16);
    const Twin out = output(shape, DType::f32), half = output(shape, DType::bf16);
    const std::vector<Twin> twins = {x,
                                     y,
                                     random({shape.rows()}, DType::f32),
                                     random({shape.cols()}, DType::f32),
                                     random({1}, DType::f32),
                                     out,
                                     half};
    // Bounds are of what the tensors hold before.
    std::vector<std::vector<Bounded>> wanted;
    for (std::int64_t i = 0; i < shape.numel(); ++i) wanted.push_back(bounds(f, numbers, twins, shape, i));
    const Twin total = output({1}, DType::f32);
    cpu().reduce(f, numbers, tested(twins), Extent::one, total.tested);
    cpu().evaluate(f, numbers, tested(twins));
    Bounded all{0, 0};
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      const auto& at = wanted[static_cast<std::size_t>(i)];
      all.value += at[static_cast<std::size_t>(f.result())].value;
      all.error += at[static_cast<std::size_t>(f.result())].error;
      for (const Formula::Assignment& a : f.assignments()) {
        const Bounded b = at[static_cast<std::size_t>(a.node)];
        const Twin& t = twins[static_cast<std::size_t>(a.tensor)];
        const double allowed =
            b.error + (t.tested.dtype == DType::bf16 ? 0x1p-8 : 0) * std::abs(b.value) * 1.01;
        if (!std::isfinite(allowed) || std::abs(b.value) > 1e37) {
          ++unclear;
          continue;
        }
        ++checked;
        ASSERT_LE(std::abs(element(t.tested, i) - b.value), allowed * 1.01)
            << "formula " << trial << ", tensor " << a.tensor << ", element " << i << ": "
            << element(t.tested, i) << ", exactly " << b.value;
      }
    }
    if (std::isfinite(all.error) && std::abs(all.value) < 1e37) {
      EXPECT_LE(std::abs(element(total.tested, 0) - all.value),
                all.error * 1.01 + std::abs(all.value) * 0x1p-23)
          << "sum of formula " << trial;
    }
  }
  EXPECT_GT(checked, 8 * unclear);
}

SPECTRAIN_KERNEL_TEST_ALL(FormulaRandomTest);

// A long chain of sums of products takes no more registers than its depth asks for.
TEST(FormulaProgram, TheLargestFormulaFits) {
  Formula f;
  std::vector<Term> leaves;
  for (int i = 0; i < 8; ++i) leaves.push_back(f.tensor(i));
  // 44 values, all alive until they are summed.
  std::vector<Term> values;
  for (int i = 0; i < 43; ++i)
    values.push_back(leaves[static_cast<std::size_t>(i % 8)] / (values.empty() ? leaves[0] : values.back()));
  Term sum = values[0];
  for (int i = 1; i < 43; ++i) sum = sum - values[static_cast<std::size_t>(i)];
  f.assign(0, sum);
  const auto cpu = make_cpu_backend({.threads = 1});
  const Shape shape{17, 59};
  std::vector<std::vector<float>> memory(8, std::vector<float>(1003));
  std::vector<std::vector<double>> wide(8, std::vector<double>(1003));
  std::vector<Tensor> tested;
  std::vector<Twin> twins;
  for (std::size_t t = 0; t < 8; ++t) {
    for (std::size_t i = 0; i < 1003; ++i)
      wide[t][i] = memory[t][i] = uniform_at({5, t}, static_cast<std::uint64_t>(i), 0.5F, 2);
    tested.emplace_back(memory[t].data(), DType::f32, shape);
    twins.push_back({tested.back(), Tensor(wide[t].data(), DType::f64, shape)});
  }
  const std::vector<double> none;
  cpu->evaluate(f, none, tested);
  for (std::size_t i = 0; i < 1003; ++i) {
    const Bounded b = bounds(f, none, twins, shape, static_cast<std::int64_t>(i)).back();
    EXPECT_NEAR(memory[0][i], b.value, b.error);
  }
}

}  // namespace
}  // namespace spectrain
