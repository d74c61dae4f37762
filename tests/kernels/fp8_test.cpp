#include "kernels/fp8.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

// All numbers of a format that are not negative, from its bits: the exponent's bias is 7 or 15, the largest
// exponent of e5m2 is infinity and NaN, of e4m3 only its last number is NaN.
std::vector<double> numbers_of(Fp8 format) {
  const int mantissa = format == Fp8::e4m3 ? 3 : 2, bias = format == Fp8::e4m3 ? 7 : 15;
  const int count = format == Fp8::e4m3 ? 127 : 124;
  std::vector<double> numbers;
  for (int bits = 0; bits < count; ++bits) {
    const int exponent = bits >> mantissa, fraction = bits & ((1 << mantissa) - 1);
    numbers.push_back(exponent == 0 ? std::ldexp(fraction, 1 - bias - mantissa)
                                    : std::ldexp((1 << mantissa) + fraction, exponent - bias - mantissa));
  }
  return numbers;
}

TEST(Fp8, RoundsToTheNearestNumberAndTiesToTheEven) {
  for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2}) {
    const Fp8Limits limits = limits_of(format);
    const std::vector<double> numbers = numbers_of(format);
    EXPECT_EQ(numbers.back(), limits.largest);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const auto here = static_cast<float>(numbers[i]);
      for (const float sign : {1.0f, -1.0f}) {
        EXPECT_EQ(fp8_rounded(limits, sign * here), sign * here);
        if (i + 1 == numbers.size()) continue;
        const auto next = static_cast<float>(numbers[i + 1]), middle = (here + next) / 2;
        EXPECT_EQ(fp8_rounded(limits, sign * middle), sign * (i % 2 == 0 ? here : next));
        EXPECT_EQ(fp8_rounded(limits, sign * std::nextafter(middle, 0.0f)), sign * here);
        EXPECT_EQ(fp8_rounded(limits, sign * std::nextafter(middle, 1e9f)), sign * next);
      }
    }
    const float inf = std::numeric_limits<float>::infinity();
    EXPECT_EQ(fp8_rounded(limits, 1e30f), limits.largest);
    EXPECT_EQ(fp8_rounded(limits, -inf), -limits.largest);
    EXPECT_TRUE(std::isnan(fp8_rounded(limits, std::numeric_limits<float>::quiet_NaN())));
  }
}

// Every float whose lower half is zero.
std::vector<float> all_bf16() {
  std::vector<float> all;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    bf16 x;
    x.bits = static_cast<std::uint16_t>(bits);
    all.push_back(static_cast<float>(x));
  }
  return all;
}

TEST(Fp8, BitsAreThoseOfTheFormat) {
  for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2}) {
    const std::vector<double> numbers = numbers_of(format);
    for (std::size_t i = 0; i < numbers.size(); ++i)
      for (const bool negative : {false, true}) {
        const auto bits = static_cast<std::uint8_t>(i + (negative ? 128 : 0));
        const float value = fp8_value(format, bits);
        EXPECT_EQ(value, negative ? -numbers[i] : numbers[i]);
        EXPECT_EQ(std::signbit(value), negative);
        EXPECT_EQ(fp8_bits(format, value), bits);
      }
    EXPECT_TRUE(std::isnan(fp8_value(format, 0x7f)));
    EXPECT_TRUE(std::isnan(fp8_value(format, 0xff)));
  }
  EXPECT_EQ(fp8_value(Fp8::e5m2, 0xfc), -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(fp8_value(Fp8::e5m2, 0x7d)));
}

TEST(Fp8, BitsAreThoseOfTheRoundedNumber) {
  for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
    for (const float x : all_bf16()) {
      const float wanted = fp8_rounded(limits_of(format), x);
      const std::uint8_t bits = fp8_bits(format, x);
      if (std::isnan(x)) {
        ASSERT_EQ(bits, 0x7f);
        continue;
      }
      ASSERT_EQ(fp8_value(format, bits), wanted) << x;
      ASSERT_EQ(bits >= 128, std::signbit(x)) << x;  // of a zero, too: what hardware makes of it
    }
}

class Fp8Test : public KernelTest {
 protected:
  // encode_fp8 of x, and whether it made the bits of every number, along and across, or the rounded numbers.
  void expect_encoded(const Tensor& x, Fp8 format, double scale, const PreparedMatrix& w) {
    const Twin memory = output(x.shape, DType::bf16);
    const Fp8Operand made = cpu().encode_fp8(format, scale, x, w, memory.tested);
    EXPECT_EQ(made.memory.data, memory.tested.data);
    EXPECT_EQ(made.format, format);
    EXPECT_EQ(made.scale, scale);
    EXPECT_EQ(made.eight_bits, !on_cpu());
    const std::int64_t rows = x.rows(), cols = x.cols();
    const auto* bits = static_cast<const std::uint8_t*>(memory.tested.data);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c) {
        const float scaled = static_cast<float>(scale) * static_cast<float>(element(x, r * cols + c));
        if (made.eight_bits) {
          const std::uint8_t along = bits[r * cols + c], across = bits[rows * cols + c * rows + r];
          ASSERT_EQ(across, along) << scaled << " at " << r << ", " << c;
          if (std::isnan(scaled)) {
            ASSERT_TRUE(std::isnan(fp8_value(format, along)));  // there are several, and hardware chooses
          } else {
            ASSERT_EQ(along, fp8_bits(format, scaled)) << scaled << " at " << r << ", " << c;
          }
        } else if (!std::isnan(scaled)) {
          ASSERT_EQ(element(memory.tested, r * cols + c),
                    double{fp8_rounded(limits_of(format), scaled)} / scale);
        }
      }
  }
};

TEST_P(Fp8Test, EncodesEveryNumberBothWays) {
  const Twin w = random({16, 16}, DType::f32);
  const auto matrix = cpu().prepare_fp8(1, w.tested, DType::bf16);
  const Twin all = output({256, 256}, DType::bf16);
  for (std::int64_t i = 0; i < 65536; ++i)
    all.tested.as<bf16>()[i].bits = static_cast<std::uint16_t>(i * 40503);  // neighbours differ in all bits
  for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
    for (const double scale : {1.0, 4096.0}) expect_encoded(all.tested, format, scale, *matrix);
}

// Tiles that are not full, rows that no pack fits, both dtypes.
TEST_P(Fp8Test, EncodesMatricesOfAllShapes) {
  const Twin w = random({16, 16}, DType::f32);
  const auto matrix = cpu().prepare_fp8(1, w.tested, DType::bf16);
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Shape shape :
         {Shape{1, 1}, {5, 7}, {16, 8}, {32, 12}, {24, 16}, {144, 72}, {129, 65}, {272, 200}}) {
      SCOPED_TRACE(shape.str());
      expect_encoded(random(shape, dtype, 3).tested, Fp8::e4m3, 2, *matrix);
      expect_encoded(random(shape, dtype, 1e-3).tested, Fp8::e5m2, 1024, *matrix);
    }
}

TEST_P(Fp8Test, AgreesWithTheDefinition) {
  for (const DType from : {DType::f32, DType::bf16})
    for (const DType to : {DType::f32, DType::bf16})
      for (const Fp8 format : {Fp8::e4m3, Fp8::e5m2})
        for (const double scale : {0.25, 2.0, 512.0, 8192.0})
          for (const std::int64_t n : {1, 7, 1030}) {
            SCOPED_TRACE(testing::Message() << name_of(from) << " to " << name_of(to) << " scale " << scale);
            const Twin x = random({n}, from, 2), y = output({n}, to);
            cpu().round_fp8(format, scale, x.tested, y.tested);
            exact().round_fp8(format, scale, x.exact, y.exact);
            expect_close(y, 0, 1, "round_fp8",
                         0);  // with scales that are powers of two nothing else is rounded
            if (from != to) continue;
            cpu().round_fp8(format, scale, x.tested, x.tested);
            expect_same_bits(x.tested, y.tested, "in place");
          }
}

SPECTRAIN_KERNEL_TEST_ALL(Fp8Test);

}  // namespace
}  // namespace spectrain
