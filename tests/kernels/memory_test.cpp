#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

class MemoryTest : public KernelTest {};

TEST_P(MemoryTest, BuffersAreAlignedAndCounted) {
  const std::size_t before = cpu().allocated_bytes();
  {
    const auto a = cpu().allocate(1, "a"), b = cpu().allocate(5000000, "b"), none = cpu().allocate(0, "none");
    for (const Buffer* buffer : {a.get(), b.get(), none.get()})
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer->data()) % 64, 0u);
    EXPECT_EQ(cpu().allocated_bytes() - before, 5000001u);
    EXPECT_THROW(a->view(DType::f32, {1}), std::logic_error);
  }
  EXPECT_EQ(cpu().allocated_bytes(), before);
}

TEST_P(MemoryTest, RefusesWhatTheMachineCannotHold) {
  for (const std::size_t bytes : {std::size_t{1} << 60, ~std::size_t{0}, ~std::size_t{0} - 63}) try {
      const auto buffer = cpu().allocate(bytes, "activations");
      FAIL() << "there was room for " << buffer->bytes();
    } catch (const Error& e) {
      const std::string text = e.what();
      EXPECT_NE(text.find("no room for"), std::string::npos) << text;
      EXPECT_NE(text.find("of activations on " + std::string(cpu().name())), std::string::npos) << text;
    }
}

TEST_P(MemoryTest, FillsEveryDType) {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::i32})
    for (const std::int64_t n : {1, 7, 70001}) {
      const auto buffer = cpu().allocate(static_cast<std::size_t>(n) * size_of(dtype), "x");
      const Tensor x = buffer->view(dtype, {n});
      cpu().fill(x, -3);
      for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(element(x, i), -3) << i;
    }
}

TEST_P(MemoryTest, ConvertsBetweenAllFloats) {
  for (const DType from : {DType::f64, DType::f32, DType::bf16})
    for (const DType to : {DType::f64, DType::f32, DType::bf16})
      for (const std::int64_t n : {1, 7, 769, 70001}) {
        const Twin x = random({n}, from, 100), y = output({n}, to);
        cpu().copy(x.tested, y.tested);
        exact().copy(x.exact, y.exact);
        expect_close(y, 0, 1, "copy", to == DType::bf16 && from == DType::f64 ? 1.01 : 1);
      }
}

// Round to nearest, ties to even, NaN and infinity kept: what the bf16 type itself says, for every upper half
// and the lower halves where the decision falls.
TEST_P(MemoryTest, RoundsToBf16LikeTheType) {
  std::vector<float> from;
  for (std::uint32_t upper = 0; upper < 0x10000; upper += 7)
    for (const std::uint32_t lower : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const std::uint32_t bits = (upper << 16) | lower;
      float value;
      std::memcpy(&value, &bits, 4);
      from.push_back(value);
    }
  const auto n = static_cast<std::int64_t>(from.size());
  const auto buffer = cpu().allocate(from.size() * 2, "y");
  const Tensor x(from.data(), DType::f32, {n}), y = buffer->view(DType::bf16, {n});
  cpu().copy(x, y);
  for (std::int64_t i = 0; i < n; ++i)
    ASSERT_EQ(y.as<bf16>()[i].bits, bf16(from[static_cast<std::size_t>(i)]).bits)
        << from[static_cast<std::size_t>(i)];
}

TEST_P(MemoryTest, HostCopiesAreExact) {
  const Twin x = random({3, 5}, DType::bf16), y = output({3, 5}, DType::bf16);
  std::vector<std::byte> host(x.tested.bytes());
  cpu().copy_to_host(host.data(), x.tested);
  cpu().copy_from_host(y.tested, host.data());
  expect_same_bits(x.tested, y.tested, "through the host");
  EXPECT_THROW(cpu().copy(x.tested, random({4}, DType::f32).tested), std::logic_error);
}

TEST_P(MemoryTest, DescribesItself) {
  if (!on_cpu()) GTEST_SKIP() << "a GPU is described by its driver";
  const std::string text = cpu().description();
  EXPECT_NE(text.find(std::to_string(GetParam().threads) + " thread"), std::string::npos) << text;
  EXPECT_NE(text.find(name_of(GetParam().isa)), std::string::npos) << text;
}

SPECTRAIN_KERNEL_TEST_ALL(MemoryTest);

}  // namespace
}  // namespace spectrain
