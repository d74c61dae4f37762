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

TEST_P(ImagesTest, RefuseWhatDoesNotFit) {
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
