#include <functional>
#include <thread>

#include "kernels/formula_program.h"
#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

using Op = Formula::Op;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all = {{1, 1},     {3, 5},    {37, 19},  {1, 100003}, {1000, 7},
                                         {7, 1000},  {300, 64}, {40, 512}, {5, 700},    {100003, 1},
                                         {2, 20011}, {3, 4, 5}, {11}};
  return all;
}

class FormulaTest : public KernelTest {
 protected:
  void run(const Formula& f, const std::vector<double>& numbers, const std::vector<Twin>& twins) {
    cpu().evaluate(f, numbers, tested(twins));
    exact().evaluate(f, numbers, exactly(twins));
  }
  void sum(const Formula& f, const std::vector<double>& numbers, const std::vector<Twin>& twins, Extent over,
           const Twin& out) {
    cpu().reduce(f, numbers, tested(twins), over, out.tested);
    exact().reduce(f, numbers, exactly(twins), over, out.exact);
  }
  static std::vector<Tensor> tested(const std::vector<Twin>& twins) {
    std::vector<Tensor> all;
    for (const Twin& t : twins) all.push_back(t.tested);
    return all;
  }
  static std::vector<Tensor> exactly(const std::vector<Twin>& twins) {
    std::vector<Tensor> all;
    for (const Twin& t : twins) all.push_back(t.exact);
    return all;
  }
  std::vector<DType> dtypes() const {
    std::vector<DType> all = {DType::f32, DType::bf16};
    if (!on_cpu()) all.push_back(DType::f16);
    return all;
  }
  // The backend itself, with memory of its own: what KernelTest gives brings every tensor to a new address.
  std::unique_ptr<Backend> bare(const CudaOptions& options = {}) const {
    if (on_cpu()) return make_cpu_backend({.threads = GetParam().threads});
    if (GetParam().kind != Setup::Kind::gpu) return make_emulated_cuda_backend(options);
    std::string reason;
    return make_cuda_backend(options, reason);
  }
};

double rounded(double x, DType dtype) {
  if (dtype == DType::f32) return static_cast<double>(static_cast<float>(x));
  if (dtype == DType::bf16) return static_cast<double>(static_cast<float>(bf16(static_cast<float>(x))));
  return static_cast<double>(static_cast<float>(f16(static_cast<float>(x))));
}

// Each operation alone is the exact result rounded, also of zeros, infinities and NaN, whatever mixture of
// tensors and numbers it takes: float32 of a float64 result is that of the exact one for + - * / and roots.
TEST_P(FormulaTest, EveryOperationIsRoundedOnce) {
  const std::vector<double> some = {kNan, kInf, -kInf, 0, -0.0, 1, -1, 2.5, -0.3333, 1e-20, 7e4};
  std::vector<double> as, bs, cs;
  for (const double a : some)
    for (const double b : some)
      for (const double c : {kNan, 0.7, -3.0}) {
        as.push_back(a);
        bs.push_back(b);
        cs.push_back(c);
      }
  const Shape shape{static_cast<std::int64_t>(as.size())};
  for (const DType dtype : dtypes())
    for (int op = static_cast<int>(Op::add); op <= static_cast<int>(Op::choose); ++op)
      for (int scalars = 0; scalars < 8; ++scalars)
        for (const double number : some) {
          if (scalars == 0 && !(number == 1)) continue;  // it is not used
          const Twin a = values(shape, dtype, as), b = values(shape, dtype, bs), c = values(shape, dtype, cs);
          const Twin out = output(shape, dtype);
          Formula f;
          const auto in = [&](int k) { return scalars >> k & 1 ? f.number(0) : f.tensor(k); };
          f.assign(3, f.operation(static_cast<Op>(op), in(0), in(1), in(2)));
          std::vector<double> numbers;
          if (f.numbers() > 0) numbers = {rounded(number, DType::f32)};
          run(f, numbers, {a, b, c, out});
          for (std::int64_t i = 0; i < shape.numel(); ++i) {
            const double got = element(out.tested, i), want = rounded(element(out.exact, i), dtype);
            ASSERT_TRUE(std::isnan(want) ? std::isnan(got) : got == want)
                << name_of(dtype) << ", operation " << op << ", scalars " << scalars << " (" << number
                << "), of " << element(a.exact, i) << ", " << element(b.exact, i) << ", "
                << element(c.exact, i) << ": " << got << ", not " << want;
          }
        }
}

TEST_P(FormulaTest, SignsMinimaAndMaximaOfNan) {
  const Twin x = values({4}, DType::f32, {kNan, -2, 0, 3}), s = output({4}, DType::f32),
             low = output({4}, DType::f32), high = output({4}, DType::f32);
  Formula f;
  f.assign(1, sign(f.tensor(0)));
  f.assign(2, min(f.tensor(0), 1));
  f.assign(3, max(1.0 * f.number(0), f.tensor(0)));
  run(f, {kNan}, {x, s, low, high});
  const double wanted[3][4] = {{kNan, -1, 0, 1}, {1, -2, 0, 1}, {kNan, -2, 0, 3}};
  const Twin* results[] = {&s, &low, &high};
  for (int k = 0; k < 3; ++k)
    for (int i = 0; i < 4; ++i) {
      const double got = element(results[k]->tested, i);
      EXPECT_TRUE(std::isnan(wanted[k][i]) ? std::isnan(got) : got == wanted[k][i]) << k << " " << i;
    }
}

// Tensors of every extent, in and out of every dtype, over odd shapes.
TEST_P(FormulaTest, EveryExtentOverOddShapes) {
  for (const Shape& shape : shapes())
    for (const DType dtype : dtypes()) {
      const Twin x = random(shape, dtype), y = output(shape, dtype), z = output(shape, DType::f32);
      const Twin rows = random({shape.rows()}, DType::f32), cols = random({shape.cols()}, DType::f32);
      const Twin one = random({1}, DType::f32);
      Formula f;
      const Term r = f.tensor(1, Extent::rows), c = f.tensor(2, Extent::columns);
      f.assign(4, f.tensor(0) * r + c / f.tensor(3, Extent::one));
      f.assign(5, c - r);
      run(f, {}, {x, rows, cols, one, y, z});
      expect_close(y, 4, 1, "x r + c / o", 1, 4 * std::fmax(1, std::abs(4 / element(one.exact, 0))));
      expect_close(z, 1, 1, "c - r");
    }
}

TEST_P(FormulaTest, SumsOverRowsColumnsAndAll) {
  for (const Shape& shape : shapes())
    for (const DType dtype : dtypes())
      for (const bool flat : {true, false})
        for (const Extent over : {Extent::rows, Extent::columns, Extent::one}) {
          const std::int64_t R = shape.rows(), C = shape.cols();
          const std::int64_t outputs = over == Extent::rows ? R : over == Extent::columns ? C : 1;
          const Twin x = random(shape, dtype), out = output({outputs}, DType::f32);
          Formula f;
          if (flat) {
            f.sum_of(square(f.tensor(0)));
            sum(f, {}, {x}, over, out);
          } else {
            const Twin rows = random({R}, DType::f32), cols = random({C}, DType::f32),
                       one = random({1}, DType::f32);
            const Term e = f.tensor(0) * f.tensor(1, Extent::rows);
            f.sum_of(abs(e + f.tensor(2, Extent::columns)) * f.tensor(3, Extent::one));
            sum(f, {}, {x, rows, cols, one}, over, out);
          }
          // Sums are in double: what is left are the terms' own roundings, of up to four operations.
          expect_close(out, 2, 1, flat ? "squares" : "a sum of all extents", 1);
        }
}

TEST_P(FormulaTest, ASumOfAScalarCounts) {
  const Twin x = random({37, 19}, DType::f32), out = output({1}, DType::f32);
  Formula f;
  f.tensor(0);
  f.sum_of(f.number(0) * 2.0);
  sum(f, {0.25}, {x}, Extent::one, out);
  EXPECT_EQ(element(out.tested, 0), 37 * 19 * 0.5);
}

// Every element reads before it writes: tensors change places, whatever the order of the assignments.
TEST_P(FormulaTest, TensorsChangePlaces) {
  for (const DType dtype : dtypes())
    for (const Shape& shape : {Shape{37, 19}, Shape{5, 700}, Shape{70001}}) {
      const auto rotate = [&](const std::vector<int>& order) {
        const Twin a = random(shape, dtype), b = random(shape, dtype), c = random(shape, dtype);
        const auto copy_of = [](const Twin& t) {
          std::vector<double> v;
          for (std::int64_t i = 0; i < t.tested.numel(); ++i) v.push_back(element(t.tested, i));
          return v;
        };
        const auto va = copy_of(a), vb = copy_of(b), vc = copy_of(c);
        Formula f;
        for (const int to : order) f.assign(to, f.tensor((to + 1) % 3));
        run(f, {}, {a, b, c});
        for (std::size_t i = 0; i < va.size(); ++i) {
          const auto at = static_cast<std::int64_t>(i);
          ASSERT_EQ(element(a.tested, at), vb[i]);
          ASSERT_EQ(element(b.tested, at), vc[i]);
          ASSERT_EQ(element(c.tested, at), va[i]);
        }
      };
      rotate({0, 1, 2});
      rotate({2, 1, 0});
      rotate({1, 0, 2});
    }
}

TEST_P(FormulaTest, TheOrderOfAssignmentsDoesNotMatter) {
  const Shape shape{61, 67};
  const Twin w = random(shape, DType::f32), m = random(shape, DType::f32), g = random(shape, DType::f32);
  std::vector<std::byte> first;
  for (const bool swapped : {false, true}) {
    const Twin w2 = space(shape, DType::f32), m2 = space(shape, DType::f32);
    cpu().copy(w.tested, w2.tested);
    cpu().copy(m.tested, m2.tested);
    Formula f;
    const Term x = f.tensor(0), y = f.tensor(1), z = f.tensor(2);
    const Term next = 0.9 * y + 0.1 * z, moved = x - 0.3 * (sign(y) * x + next);
    if (swapped) f.assign(0, moved);
    f.assign(1, next);
    if (!swapped) f.assign(0, moved);
    cpu().evaluate(f, std::span<const double>{}, std::vector<Tensor>{w2.tested, m2.tested, g.tested});
    std::vector<std::byte> bytes(w2.tested.bytes() + m2.tested.bytes());
    std::memcpy(bytes.data(), w2.tested.data, w2.tested.bytes());
    std::memcpy(bytes.data() + w2.tested.bytes(), m2.tested.data, m2.tested.bytes());
    if (swapped)
      EXPECT_TRUE(bytes == first);
    else
      first = bytes;
  }
}

// What consists of numbers alone is computed in double: 1 - 0.999 keeps all its digits.
TEST_P(FormulaTest, NumbersAreComputedInDouble) {
  const Twin x = values({3}, DType::f32, {1, 1, 1}), out = output({3}, DType::f32);
  Formula f;
  const Term b = f.number(0);
  f.assign(1, f.tensor(0) * ((1 - b) / sqrt(1 - b * b)));
  cpu().evaluate(f, std::vector<double>{0.999}, tested({x, out}));
  EXPECT_EQ(out.tested.as<float>()[1], static_cast<float>((1 - 0.999) / std::sqrt(1 - 0.999 * 0.999)));
  Formula fill;
  fill.assign(0, 1 - fill.number(0));
  cpu().evaluate(fill, std::vector<double>{0.999999}, tested({out}));
  EXPECT_EQ(out.tested.as<float>()[2], static_cast<float>(1 - 0.999999));
}

TEST_P(FormulaTest, ViewsThatAreNotAligned) {
  const auto backend = bare();
  if (!backend) GTEST_SKIP() << "no GPU";
  for (const std::int64_t cols : {1, 6, 19, 64, 1000})
    for (const DType dtype : dtypes()) {
      const Shape shape{23, cols};
      const Twin x = random(shape, dtype), y = random(shape, DType::f32);
      const auto mx = backend->allocate(x.tested.bytes(), "x"), my = backend->allocate(y.tested.bytes(), "y"),
                 mo = backend->allocate(static_cast<std::size_t>(23 * 4), "out");
      const Tensor tx = mx->view(dtype, shape), ty = my->view(DType::f32, shape);
      backend->copy_from_host(tx, x.tested.data);
      backend->copy_from_host(ty, y.tested.data);
      Formula f;
      f.assign(1, f.tensor(0) * 0.5 + f.tensor(1));
      f.sum_of(square(f.tensor(1)));
      const auto slice = [](const Tensor& t) { return t.slice_rows(1, 21); };
      backend->evaluate(f, std::vector<double>{}, std::vector<Tensor>{slice(tx), slice(ty)});
      exact().evaluate(f, std::vector<double>{}, std::vector<Tensor>{slice(x.exact), slice(y.exact)});
      const Twin sums = output({21}, DType::f32);
      const Tensor out = mo->view(DType::f32, {21});
      backend->reduce(f, std::vector<double>{}, std::vector<Tensor>{slice(tx), slice(ty)}, Extent::rows, out);
      exact().reduce(f, std::vector<double>{}, std::vector<Tensor>{slice(x.exact), slice(y.exact)},
                     Extent::rows, sums.exact);
      backend->copy_to_host(y.tested.data, ty);
      backend->copy_to_host(sums.tested.data, out);
      expect_close(y, 1, 1, "evaluate");  // the rows outside of the slice too
      expect_close(sums, 3, 1, "reduce");
    }
}

// ---- random formulas against float64, with a bound of the error that is carried along

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

TEST_P(FormulaTest, RandomFormulasStayWithinTheirErrorBounds) {
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

// ---- rules

TEST_P(FormulaTest, AdamWAsAFormula) {
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
          s.gradient_scale,        s.lr, s.beta1, s.beta2, s.eps, s.weight_decay, 1 - std::pow(s.beta1, t),
          1 - std::pow(s.beta2, t)};
      cpu().evaluate(f, numbers, tested({tw, tg, tm, tv}));
      exact().adamw(s, tw.exact, tg.exact, tm.exact, tv.exact);
    }
    expect_close(tw, 2, 10, "w", 1, 1);
    expect_close(tm, 2, 10, "m", 1, 0.2);
    expect_close(tv, 2, 10, "v");
  }
}

TEST_P(FormulaTest, LionAsAFormula) {
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

// ---- bits

TEST_P(FormulaTest, BitsDoNotDependOnThreadsOrBlocks) {
  std::vector<std::unique_ptr<Backend>> others;
  if (on_cpu()) {
    if (GetParam().threads != 1) return;
    for (const int threads : {2, 3}) others.push_back(make_cpu_backend({.threads = threads}));
  } else {
    others.push_back(tested_with_one_block());
  }
  Formula f;
  const Term r = f.tensor(1, Extent::rows), c = f.tensor(2, Extent::columns);
  f.assign(3, f.tensor(0) * r + c / 3);
  f.sum_of(f.tensor(0) * r + c / 3);
  for (const Shape& shape : shapes()) {
    const Twin x = random(shape, DType::f32), rows = random({shape.rows()}, DType::f32),
               cols = random({shape.cols()}, DType::f32);
    const Twin y = output(shape, DType::bf16), z = output(shape, DType::bf16);
    const std::vector<double> none;
    cpu().evaluate(f, none, tested({x, rows, cols, y}));
    for (const auto& other : others) {
      other->evaluate(f, none, tested({x, rows, cols, z}));
      expect_same_bits(y.tested, z.tested, "evaluate");
      for (const Extent over : {Extent::rows, Extent::columns, Extent::one}) {
        const Twin a = output({over == Extent::rows      ? shape.rows()
                               : over == Extent::columns ? shape.cols()
                                                         : 1},
                              DType::f32);
        const Twin b = output(a.tested.shape, DType::f32);
        cpu().reduce(f, none, tested({x, rows, cols, y}), over, a.tested);
        other->reduce(f, none, tested({x, rows, cols, y}), over, b.tested);
        expect_same_bits(a.tested, b.tested, "reduce");
      }
    }
  }
}

TEST_P(FormulaTest, IsRecordedAndReplayed) {
  if (on_cpu()) GTEST_SKIP() << "a processor records nothing";
  const auto backend = bare();
  if (!backend) GTEST_SKIP() << "no GPU";
  const std::int64_t n = 5000;
  const auto memory = backend->allocate(static_cast<std::size_t>(n) * 4, "x"),
             one = backend->allocate(4, "total");
  const Tensor x = memory->view(DType::f32, {n}), total = one->view(DType::f32, {1});
  Formula f;
  f.assign(0, f.tensor(0) * 2.0);
  f.sum_of(f.tensor(0));
  const auto work = [&] {
    const std::vector<Tensor> tensors = {x};
    backend->evaluate(f, std::vector<double>{}, tensors);
    backend->reduce(f, std::vector<double>{}, tensors, Extent::one, total);
  };
  backend->fill(x, 1);
  work();  // as every first run, outside of a recording: it takes scratch memory
  const auto replay = backend->record(work);
  backend->fill(x, 1);
  replay->run();
  replay->run();
  float sum = 0;
  backend->copy_to_host(&sum, total);
  EXPECT_EQ(sum, 20000.0F);
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

TEST_P(FormulaTest, MistakesAreNamed) {
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
TEST_P(FormulaTest, TensorsThatOverlapInPartAreRefused) {
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

TEST_P(FormulaTest, NoElements) {
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

SPECTRAIN_KERNEL_TEST_ALL(FormulaTest);

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
