#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "tests/cuda_emulator/emulator.h"

// What the cases of the families (norm, activation, qk_transform) cannot show, for they carry every tensor to
// memory of its own: tensors that begin at odd addresses, the number of launches, and recorded work.

namespace spectrain {
namespace {

class LayersOnGpuTest : public ::testing::Test {
 protected:
  Backend& gpu() { return *gpu_; }

  // A tensor that begins `shift` elements after an aligned address.
  Tensor space(Shape shape, DType dtype, std::int64_t shift) {
    const auto offset = static_cast<std::size_t>(shift) * size_of(dtype);
    buffers_.push_back(
        gpu_->allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype) + offset, "a test tensor"));
    const Tensor t = buffers_.back()->view(dtype, shape, offset);
    gpu_->fill(t, NAN);
    return t;
  }
  Tensor random(Shape shape, DType dtype, std::int64_t shift, std::uint64_t number) {
    const Tensor t = space(shape, dtype, shift);
    gpu_->fill_normal(t, {7, number}, 0.5f, 1);
    return t;
  }
  void expect_same_bits(const Tensor& a, const Tensor& b, const char* what) {
    gpu_->synchronize();
    ASSERT_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << what;
  }

 private:
  std::unique_ptr<Backend> gpu_ = make_emulated_cuda_backend();
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

// Aligned or not, an element goes through the same arithmetic.
TEST_F(LayersOnGpuTest, ElementsDoNotFeelWhereATensorBegins) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::int64_t R = 5, F = 520;
    Tensor y[2], dx[2], product[2], dproduct[2], sum[2], turned[2], unturned[2];
    const HeadLayout l{.batch = 1, .context = R, .heads = 3, .kv_heads = 1, .head_dim = 64};
    for (int i = 0; i < 2; ++i) {
      const std::int64_t shift = i;
      const Shape wide{R, 2 * F}, narrow{R, F}, packed{R, l.packed()};
      const Tensor x = random(wide, dtype, shift, 1), dy = random(narrow, dtype, shift, 2);
      y[i] = space(wide, dtype, shift);
      dx[i] = space(wide, dtype, shift);
      sum[i] = space(wide, dtype, 0);  // one of three at an odd address is enough to change the path
      product[i] = space(narrow, dtype, shift);
      dproduct[i] = space(wide, dtype, shift);
      gpu().activation(Activation::gelu, x, y[i]);
      gpu().activation_backward(Activation::gelu_tanh, y[i], x, dx[i]);
      gpu().add(x, dx[i], sum[i]);
      gpu().scale(sum[i], 0.7, sum[i]);
      gpu().swiglu(x, product[i]);
      gpu().swiglu_backward(dy, x, dproduct[i]);
      const Tensor qkv = random(packed, dtype, shift, 3), cos = random({R, 32}, DType::f32, shift, 4),
                   sin = random({R, 32}, DType::f32, shift, 5);
      turned[i] = space(packed, dtype, shift);
      unturned[i] = space(packed, dtype, shift);
      QkTransform t;
      t.cos = cos;
      t.sin = sin;
      gpu().qk_transform(l, t, qkv, turned[i], {});
      gpu().qk_transform_backward(l, t, turned[i], turned[i], {}, unturned[i]);
    }
    expect_same_bits(y[0], y[1], "activation");
    expect_same_bits(dx[0], dx[1], "activation_backward");
    expect_same_bits(sum[0], sum[1], "add and scale");
    expect_same_bits(product[0], product[1], "swiglu");
    expect_same_bits(dproduct[0], dproduct[1], "swiglu_backward");
    expect_same_bits(turned[0], turned[1], "qk_transform");
    expect_same_bits(unturned[0], unturned[1], "qk_transform_backward");
  }
}

// A norm's sums are taken in another order where a row cannot be read in packs: close, then, not the same.
TEST_F(LayersOnGpuTest, NormsWorkAtOddAddresses) {
  const std::int64_t R = 9, C = 256;
  float y[2][R * C], dx[2][R * C], dgain[2][C];
  for (int i = 0; i < 2; ++i) {
    const Tensor x = random({R, C}, DType::f32, i, 1), dy = random({R, C}, DType::f32, i, 2);
    const Tensor gain = random({C}, DType::f32, 1 - i, 3), mean = space({R}, DType::f32, i),
                 rstd = space({R}, DType::f32, i);
    const Tensor out = space({R, C}, DType::f32, i), gradient = space({R, C}, DType::f32, i),
                 gains = space({C}, DType::f32, i);
    gpu().norm(NormKind::layer, x, gain, {}, 1e-5, out, mean, rstd);
    gpu().norm_backward(NormKind::layer, dy, x, gain, mean, rstd, gradient, false, gains, {}, false);
    gpu().copy_to_host(y[i], out);
    gpu().copy_to_host(dx[i], gradient);
    gpu().copy_to_host(dgain[i], gains);
  }
  const float bound = 16 * 0x1p-23f * 16;  // c eps sqrt(C), of numbers up to about 16
  for (std::int64_t k = 0; k < R * C; ++k) {
    ASSERT_NEAR(y[0][k], y[1][k], bound);
    ASSERT_NEAR(dx[0][k], dx[1][k], bound);
  }
  for (std::int64_t k = 0; k < C; ++k) ASSERT_NEAR(dgain[0][k], dgain[1][k], bound);
}

// One launch each, two where parameters have gradients; nobody waits; and a graph of them does the same
// again.
TEST_F(LayersOnGpuTest, RecordedWorkIsTheSameAndNobodyWaits) {
  const std::int64_t R = 40, C = 128;
  const HeadLayout l{.batch = 2, .context = 20, .heads = 1, .kv_heads = 0, .head_dim = 128};
  const Tensor a = random({R, C}, DType::bf16, 0, 1), b = random({R, C}, DType::bf16, 0, 2),
               gain = random({C}, DType::f32, 0, 3), cos = random({20, 64}, DType::f32, 0, 4),
               sin = random({20, 64}, DType::f32, 0, 5);
  const Tensor sum = space({R, C}, DType::bf16, 0), y = space({R, C}, DType::bf16, 0),
               mean = space({R}, DType::f32, 0), rstd = space({R}, DType::f32, 0),
               head_rstd = space({R, 1}, DType::f32, 0);
  const Tensor turned = space({R, C}, DType::bf16, 0), active = space({R, C}, DType::bf16, 0);
  const Tensor dx = space({R, C}, DType::bf16, 0), dgain = space({C}, DType::f32, 0);
  QkTransform t;
  t.norm = true;
  t.cos = cos;
  t.sin = sin;
  const auto work = [&] {
    gpu().add_norm(NormKind::layer, a, b, gain, {}, 1e-5, sum, y, mean, rstd);
    gpu().qk_transform(l, t, y, turned, head_rstd);
    gpu().activation(Activation::relu2, turned, active);
    gpu().activation_backward(Activation::relu2, a, active, active);
    gpu().qk_transform_backward(l, t, active, turned, head_rstd, active);
    gpu().norm_backward(NormKind::layer, active, sum, gain, mean, rstd, dx, false, dgain, {}, false);
  };
  work();  // scratch memory is found
  const auto before = emulator::counts();
  work();
  const auto after = emulator::counts();
  EXPECT_EQ(after.launches - before.launches, 7);
  EXPECT_EQ(after.synchronizations, before.synchronizations);
  EXPECT_EQ(after.allocations, before.allocations);

  std::vector<std::byte> wanted(dx.bytes()), wanted_gain(dgain.bytes()), got(dx.bytes()),
      got_gain(dgain.bytes());
  gpu().copy_to_host(wanted.data(), dx);
  gpu().copy_to_host(wanted_gain.data(), dgain);
  const auto replay = gpu().record(work);
  ASSERT_TRUE(replay);
  for (const Tensor& out : {sum, y, turned, active, dx, dgain}) gpu().fill(out, NAN);
  replay->run();
  gpu().copy_to_host(got.data(), dx);
  gpu().copy_to_host(got_gain.data(), dgain);
  EXPECT_EQ(got, wanted);
  EXPECT_EQ(got_gain, wanted_gain);
}

}  // namespace
}  // namespace spectrain
