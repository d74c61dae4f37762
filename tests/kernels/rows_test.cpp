#include <algorithm>
#include <limits>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

class RowsTest : public KernelTest {
 protected:
  void expect_top(const Twin& scores, std::int64_t count) {
    const Twin at = space({count}, DType::i32);
    cpu().fill(at.tested, -1);
    cpu().top_rows(scores.tested, at.tested);
    exact().top_rows(scores.exact, at.exact);
    for (std::int64_t i = 0; i < count; ++i)
      ASSERT_EQ(element(at.tested, i), element(at.exact, i))
          << i << " of the best " << count << " of " << scores.tested.numel();
  }
  Twin indices(const std::vector<std::int32_t>& from) {
    const Twin t = space({static_cast<std::int64_t>(from.size())}, DType::i32);
    std::copy(from.begin(), from.end(), t.tested.as<std::int32_t>());
    std::copy(from.begin(), from.end(), t.exact.as<std::int32_t>());
    return t;
  }
};

TEST_P(RowsTest, TopRows) {
  for (const std::int64_t rows : {1, 2, 31, 257, 1100}) {
    const Twin scores = random({rows}, DType::f32);
    for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, rows / 2, rows - 1, rows})
      expect_top(scores, count);
  }
}

TEST_P(RowsTest, OfEqualScoresTheEarlier) {
  std::vector<double> few;
  for (int i = 0; i < 600; ++i) few.push_back(i * 7 % 5 - 2);
  const Twin scores = values({600}, DType::f32, few);
  for (const std::int64_t count : {1, 100, 121, 300, 599}) expect_top(scores, count);
  const Twin same = values({400}, DType::f32, std::vector<double>(400, 3.0));
  expect_top(same, 77);
}

TEST_P(RowsTest, ScoresOutOfTheOrdinary) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const Twin scores = values({10}, DType::f32, {0, nan, -0.0, inf, -inf, 1e-40, -1e-40, nan, inf, -1});
  for (std::int64_t count = 0; count <= 10; ++count) expect_top(scores, count);
}

TEST_P(RowsTest, CopiesColumns) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [rows, cols] :
         {std::pair<std::int64_t, std::int64_t>{1, 1}, {7, 5}, {300, 129}, {3, 700}})
      for (const bool accumulate : {false, true})
        for (const std::int64_t count : {std::int64_t{0}, std::int64_t{1}, cols / 2, cols}) {
          SCOPED_TRACE(testing::Message() << rows << " x " << cols << ", " << count << " of "
                                          << name_of(dtype) << (accumulate ? " added" : ""));
          const Twin x = random({rows, cols}, dtype), y = random({rows, cols + 3}, dtype);
          cpu().copy_columns(x.tested, cols - count, y.tested, 2, count, accumulate);
          exact().copy_columns(x.exact, cols - count, y.exact, 2, count, accumulate);
          expect_close(y, 0, 1, "columns");
          cpu().copy_columns({}, 0, y.tested, 1, count, accumulate);
          exact().copy_columns({}, 0, y.exact, 1, count, accumulate);
          expect_close(y, 0, 1, "columns");
        }
  const Twin x = random({4, 5}, DType::f32), y = random({4, 6}, DType::f32),
             short_one = random({3, 6}, DType::f32);
  EXPECT_THROW(cpu().copy_columns(x.tested, 3, y.tested, 0, 3, false), std::logic_error);
  EXPECT_THROW(cpu().copy_columns(x.tested, 0, y.tested, 4, 3, false), std::logic_error);
  EXPECT_THROW(cpu().copy_columns(x.tested, 0, short_one.tested, 0, 2, false), std::logic_error);
}

TEST_P(RowsTest, GatherAndScatter) {
  const std::vector<DType> dtypes = {DType::f32, DType::bf16};
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {5, 3}, {40, 129}, {700, 65}})
    for (const DType all : dtypes)
      for (const DType some : dtypes) {
        SCOPED_TRACE(testing::Message()
                     << rows << " x " << cols << " " << name_of(all) << " " << name_of(some));
        std::vector<std::int32_t> chosen;
        for (std::int64_t i = rows - 1; i >= 0; i -= 3) chosen.push_back(static_cast<std::int32_t>(i));
        std::sort(chosen.begin() + static_cast<std::ptrdiff_t>(chosen.size()) / 2, chosen.end());
        const Twin at = indices(chosen), x = random({rows, cols}, all);
        const auto count = static_cast<std::int64_t>(chosen.size());
        const Twin y = output({count, cols}, some);
        cpu().gather_rows(x.tested, at.tested, y.tested);
        exact().gather_rows(x.exact, at.exact, y.exact);
        expect_close(y, 0, 1, "gather");
        const Twin fresh = random({count, cols}, some);
        cpu().scatter_rows(fresh.tested, at.tested, x.tested);
        exact().scatter_rows(fresh.exact, at.exact, x.exact);
        expect_close(x, 0, 1, "scatter");
      }
}

TEST_P(RowsTest, NoRows) {
  const Twin x = random({4, 3}, DType::f32), before = space({4, 3}, DType::f32);
  cpu().copy(x.tested, before.tested);
  const Twin none = indices({}), y = space({0, 3}, DType::f32);
  cpu().gather_rows(x.tested, none.tested, y.tested);
  cpu().scatter_rows(y.tested, none.tested, x.tested);
  expect_same_bits(x.tested, before.tested, "nothing scattered");
}

TEST_P(RowsTest, RefuseWhatDoesNotFit) {
  const Twin x = random({4, 3}, DType::f32), y = random({2, 3}, DType::f32), scores = random({4}, DType::f32);
  const Twin wrong = random({2, 5}, DType::f32);
  EXPECT_THROW(cpu().top_rows(scores.tested, indices({0, 0, 0, 0, 0}).tested), std::logic_error);
  EXPECT_THROW(cpu().gather_rows(x.tested, indices({1, 2, 3}).tested, y.tested), std::logic_error);
  EXPECT_THROW(cpu().gather_rows(x.tested, indices({1, 2}).tested, wrong.tested), std::logic_error);
  EXPECT_THROW(cpu().scatter_rows(wrong.tested, indices({1, 2}).tested, x.tested), std::logic_error);
  if (on_cpu()) {  // a GPU's indices are out of the host's sight
    EXPECT_THROW(cpu().gather_rows(x.tested, indices({1, 4}).tested, y.tested), std::logic_error);
    EXPECT_THROW(cpu().scatter_rows(y.tested, indices({-1, 2}).tested, x.tested), std::logic_error);
  }
}

SPECTRAIN_KERNEL_TEST_ALL(RowsTest);

}  // namespace
}  // namespace spectrain
