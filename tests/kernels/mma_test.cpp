#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "kernels/tensor.h"
#include "tests/cuda_emulator/fragments.h"

// The emulated tensor cores against plain loops: fragments as the PTX manual lays them out. On a GPU the same
// instructions are tested through the kernels that use them.

namespace spectrain {
namespace {

template <class T>
std::vector<T> numbers(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<T> x(n + 8);
  for (T& e : x) e = T(static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 256.0f);
  return x;
}

// Aligned to 16 bytes, as copies to shared memory want it.
template <class T>
Tensor aligned(std::vector<T>& x, Shape shape, DType dtype) {
  const auto address = reinterpret_cast<std::uintptr_t>(x.data());
  return Tensor(reinterpret_cast<void*>((address + 15) / 16 * 16), dtype, shape);
}

template <class T>
void expect_products(DType dtype) {
  for (const bool transposed : {false, true}) {
    std::vector<T> as = numbers<T>(256, 1), bs = numbers<T>(256, 2);
    std::vector<float> c(256, NAN);
    const Tensor ta = aligned(as, {16, 16}, dtype), tb = aligned(bs, {16, 16}, dtype);
    emulator::multiply_fragments(ta, tb, transposed, Tensor(c.data(), DType::f32, {16, 16}));
    const T *a = static_cast<const T*>(ta.data), *b = static_cast<const T*>(tb.data);
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) {
        double sum = 0;
        for (int k = 0; k < 16; ++k)
          sum += double{static_cast<float>(a[16 * i + k])} *
                 double{static_cast<float>(b[transposed ? 16 * j + k : 16 * k + j])};
        ASSERT_NEAR(c[static_cast<std::size_t>(16 * i + j)], sum, 16 * 0x1p-24 * 16 * 16)
            << i << " " << j << " transposed " << transposed;
      }
  }
}

TEST(Mma, BfloatFragmentsMultiplyAsPlainLoops) { expect_products<bf16>(DType::bf16); }
TEST(Mma, HalfFragmentsMultiplyAsPlainLoops) { expect_products<f16>(DType::f16); }

TEST(Mma, PairsAreRoundedAsSingleNumbers) {
  std::vector<float> x = {0,       -0.0f,   1,         -1.0f,    65504,    65519.9f, 65520,   1e9f,   6.1e-5f,
                          3.0e-8f, 2.9e-8f, -5.96e-8f, 0x1p-24f, 0x1p-25f, 0.1f,     2049.0f, 2051.0f};
  std::vector<bf16> brain(x.size());
  std::vector<f16> half(x.size());
  const Shape shape{static_cast<std::int64_t>(x.size())};
  emulator::round_in_pairs(Tensor(x.data(), DType::f32, shape), Tensor(brain.data(), DType::bf16, shape));
  emulator::round_in_pairs(Tensor(x.data(), DType::f32, shape), Tensor(half.data(), DType::f16, shape));
  for (std::size_t i = 0; i < x.size(); ++i) {
    EXPECT_EQ(brain[i].bits, bf16(x[i]).bits) << x[i];
    EXPECT_EQ(half[i].bits, f16(x[i]).bits) << x[i];
  }
}

// Who reads before the copy was waited for meets NaNs, not by luck what will be there.
TEST(Mma, AnAsynchronousCopyIsThereOnceItWasWaitedFor) {
  std::vector<float> x = numbers<float>(16, 3), early(16, 0), late(16, NAN);
  const Tensor from = aligned(x, {16}, DType::f32);
  emulator::read_after_copy(from, 1, Tensor(early.data(), DType::f32, {16}));
  emulator::read_after_copy(from, 0, Tensor(late.data(), DType::f32, {16}));
  for (std::size_t i = 0; i < 16; ++i) {
    EXPECT_TRUE(std::isnan(early[i])) << i;
    EXPECT_EQ(late[i], i < 12 ? from.as<float>()[i] : 0) << i;  // the last ones were not there: zeros
  }
}

}  // namespace
}  // namespace spectrain
