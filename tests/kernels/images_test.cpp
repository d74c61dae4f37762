#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

class ImagesTest : public KernelTest {};

const std::vector<Patches> kPatches = {
    {.batch = 1, .height = 1, .width = 1, .channels = 1},
    {.batch = 2, .height = 5, .width = 7, .channels = 3, .kernel_height = 3, .kernel_width = 3, .padding = 1},
    {.batch = 3, .height = 6, .width = 4, .channels = 65, .kernel_height = 2, .kernel_width = 2},
    {.batch = 2, .height = 7, .width = 7, .channels = 2, .kernel_height = 2, .kernel_width = 2, .stride = 2},
    {.batch = 1,
     .height = 9,
     .width = 8,
     .channels = 5,
     .kernel_height = 3,
     .kernel_width = 2,
     .stride = 3,
     .padding = 2},
    {.batch = 4,
     .height = 32,
     .width = 32,
     .channels = 8,
     .kernel_height = 3,
     .kernel_width = 3,
     .padding = 1},
};

TEST_P(ImagesTest, UnfoldAndFoldAgreeWithFloat64) {
  for (const Patches& p : kPatches)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(testing::Message() << p.height << " x " << p.width << " x " << p.channels << " by "
                                      << p.kernel_height << " x " << p.kernel_width << " " << name_of(dtype));
      const Twin x = random({p.pixels(), p.channels}, dtype), rows = output({p.places(), p.patch()}, dtype);
      cpu().unfold(p, x.tested, rows.tested);
      exact().unfold(p, x.exact, rows.exact);
      expect_close(rows, 0, 1, "unfold", 0);
      const Twin back = output({p.pixels(), p.channels}, dtype);
      cpu().fold(p, rows.tested, back.tested);
      exact().fold(p, rows.exact, back.exact);
      expect_close(back, 1, static_cast<double>(p.kernel_height * p.kernel_width), "fold");
    }
}

// fold is the transpose of unfold: <unfold(x), r> = <x, fold(r)> for all x and r.
TEST_P(ImagesTest, FoldIsTheTranspose) {
  for (const Patches& p : kPatches) {
    const Twin x = random({p.pixels(), p.channels}, DType::f32),
               r = random({p.places(), p.patch()}, DType::f32);
    const Twin rows = output({p.places(), p.patch()}, DType::f32),
               image = output({p.pixels(), p.channels}, DType::f32);
    cpu().unfold(p, x.tested, rows.tested);
    cpu().fold(p, r.tested, image.tested);
    double one = 0, other = 0, size = 0;
    for (std::int64_t i = 0; i < rows.tested.numel(); ++i) {
      one += element(rows.tested, i) * element(r.tested, i);
      size += std::abs(element(rows.tested, i) * element(r.tested, i));
    }
    for (std::int64_t i = 0; i < x.tested.numel(); ++i)
      other += element(x.tested, i) * element(image.tested, i);
    EXPECT_NEAR(one, other, 0x1p-23 * (1 + size));
  }
}

TEST_P(ImagesTest, PoolsAgreeWithFloat64) {
  const std::vector<Patches> pools = {{.batch = 1, .height = 1, .width = 1, .channels = 3},
                                      {.batch = 3,
                                       .height = 6,
                                       .width = 8,
                                       .channels = 5,
                                       .kernel_height = 2,
                                       .kernel_width = 2,
                                       .stride = 2},
                                      {.batch = 2,
                                       .height = 7,
                                       .width = 5,
                                       .channels = 33,
                                       .kernel_height = 2,
                                       .kernel_width = 2,
                                       .stride = 2},
                                      {.batch = 4,
                                       .height = 3,
                                       .width = 3,
                                       .channels = 70,
                                       .kernel_height = 3,
                                       .kernel_width = 3,
                                       .stride = 3},
                                      {.batch = 1,
                                       .height = 9,
                                       .width = 9,
                                       .channels = 2,
                                       .kernel_height = 1,
                                       .kernel_width = 2,
                                       .stride = 4}};
  for (const Patches& p : pools)
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const PoolKind kind : {PoolKind::largest, PoolKind::mean}) {
        SCOPED_TRACE(testing::Message() << p.height << " x " << p.width << " " << name_of(dtype)
                                        << (kind == PoolKind::mean ? " mean" : " largest"));
        const Twin x = random({p.pixels(), p.channels}, dtype), y = output({p.places(), p.channels}, dtype);
        const Twin dy = random({p.places(), p.channels}, dtype), dx = output({p.pixels(), p.channels}, dtype);
        cpu().pool(kind, p, x.tested, y.tested);
        exact().pool(kind, p, x.exact, y.exact);
        expect_close(y, kind == PoolKind::mean ? 2 : 0, static_cast<double>(p.kernel_height * p.kernel_width),
                     "pool");
        cpu().pool_backward(kind, p, dy.tested, x.tested, dx.tested);
        exact().pool_backward(kind, p, dy.exact, x.exact, dx.exact);
        expect_close(dx, kind == PoolKind::mean ? 2 : 0, 1, "pool_backward");
      }
}

// Of equal values the first has the gradient, and a NaN is seen.
TEST_P(ImagesTest, PoolsOfEqualValuesAndOfNaN) {
  const Patches p{
      .batch = 1, .height = 2, .width = 4, .channels = 1, .kernel_height = 2, .kernel_width = 2, .stride = 2};
  const Twin x = values({8, 1}, DType::f32, {1, 1, 0, 2, 1, 1, 2, NAN}), y = output({2, 1}, DType::f32);
  const Twin dy = values({2, 1}, DType::f32, {3, 5}), dx = output({8, 1}, DType::f32);
  cpu().pool(PoolKind::largest, p, x.tested, y.tested);
  EXPECT_EQ(element(y.tested, 0), 1);
  EXPECT_TRUE(std::isnan(element(y.tested, 1)));
  cpu().pool_backward(PoolKind::largest, p, dy.tested, x.tested, dx.tested);
  for (std::int64_t i = 0; i < 8; ++i) EXPECT_EQ(element(dx.tested, i), i == 0 ? 3 : i == 3 ? 5 : 0) << i;
}

TEST_P(ImagesTest, RefuseWhatDoesNotFit) {
  const Patches overlapping{
      .batch = 1, .height = 3, .width = 3, .channels = 1, .kernel_height = 2, .kernel_width = 2};
  const Twin image = random({9, 1}, DType::f32), small = random({4, 1}, DType::f32);
  EXPECT_THROW(cpu().pool(PoolKind::mean, overlapping, image.tested, small.tested), std::logic_error);
  const Patches p{.batch = 1, .height = 3, .width = 3, .channels = 2, .kernel_height = 4, .kernel_width = 2};
  const Twin x = random({9, 2}, DType::f32), rows = random({4, 8}, DType::f32);
  EXPECT_THROW(cpu().unfold(p, x.tested, rows.tested), std::logic_error);
  Patches q = p;
  q.kernel_height = 2;
  EXPECT_NO_THROW(cpu().unfold(q, x.tested, rows.tested));
  EXPECT_THROW(cpu().fold(q, x.tested, rows.tested), std::logic_error);
  q.stride = 0;
  EXPECT_THROW(cpu().fold(q, rows.tested, x.tested), std::logic_error);
}

SPECTRAIN_KERNEL_TEST_ALL(ImagesTest);

}  // namespace
}  // namespace spectrain
