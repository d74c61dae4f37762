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

class Fp8Test : public KernelTest {};

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
