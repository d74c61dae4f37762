#include "tests/kernels/formula_cases.h"

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

class FormulaTest : public FormulaCases {};

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

SPECTRAIN_KERNEL_TEST_ALL(FormulaTest);

}  // namespace
}  // namespace spectrain
