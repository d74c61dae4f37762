#include <array>
#include <cmath>
#include <numeric>

#include "tests/kernels/kernel_cases.h"

namespace spectrain {
namespace {

struct Logits {
  std::int64_t rows, columns, vocab;
  std::vector<float> values;
  std::unique_ptr<Buffer> memory, drawn;
  Backend& backend;

  Logits(Backend& b, std::int64_t r, std::int64_t c, std::int64_t v, bool equal_rows)
      : rows(r), columns(c), vocab(v), backend(b) {
    for (std::int64_t i = 0; i < r * c; ++i)
      values.push_back(3 * std::sin(0.7F * static_cast<float>(equal_rows ? i % c : i)));
    memory = b.allocate(values.size() * 4, "logits");
    drawn = b.allocate(static_cast<std::size_t>(r) * 4, "targets");
    b.copy_from_host(memory->view(DType::f32, {r, c}), values.data());
  }
  // Rows [begin, begin + count).
  std::vector<std::int32_t> draw(const Softcap& cap, RandomKey key, std::int64_t begin, std::int64_t count,
                                 std::int32_t before = 0) {
    std::vector<std::int32_t> targets(static_cast<std::size_t>(count), before);
    const Tensor t = drawn->view(DType::i32, {count});
    backend.copy_from_host(t, targets.data());
    backend.sample_targets(memory->view(DType::f32, {rows, columns}).slice_rows(begin, count), vocab, cap,
                           key, begin, t);
    backend.copy_to_host(targets.data(), t);
    return targets;
  }
  std::vector<std::int32_t> draw(const Softcap& cap, RandomKey key) { return draw(cap, key, 0, rows); }
};

const Softcap kCaps[] = {
    {}, {Softcap::Kind::tanh, 2}, {Softcap::Kind::sigmoid, 6, 1.5, 0.25}, {Softcap::Kind::rational, 1.5}};

class SampleTargetsTest : public KernelTest {};
SPECTRAIN_KERNEL_TEST_ALL(SampleTargetsTest);

// Frequencies against the probabilities, as a chi-squared statistic: with 36 degrees of freedom it is above
// 80 in 4 of 100,000 cases (and here it is the same number in every run).
TEST_P(SampleTargetsTest, DrawsFromTheSoftmax) {
  const std::int64_t rows = on_cpu() ? 20000 : 2000;
  for (const Softcap& cap : kCaps) {
    Logits z(cpu(), rows, 40, 37, true);
    std::vector<double> p;
    for (int v = 0; v < 37; ++v)
      p.push_back(std::exp(softcapped(cap, z.values[static_cast<std::size_t>(v)])));
    const double total = std::accumulate(p.begin(), p.end(), 0.0);
    std::vector<double> counts(37);
    for (const std::int32_t t : z.draw(cap, {5, 9})) {
      ASSERT_TRUE(t >= 0 && t < 37);
      counts[static_cast<std::size_t>(t)] += 1;
    }
    double chi = 0;
    for (std::size_t v = 0; v < p.size(); ++v) {
      const double expected = static_cast<double>(rows) * p[v] / total;
      chi += (counts[v] - expected) * (counts[v] - expected) / expected;
    }
    EXPECT_LT(chi, 80) << static_cast<int>(cap.kind);
  }
}

// The float64 reference draws the same tokens but where two are nearly equal.
TEST_P(SampleTargetsTest, TheSameTokensAsInFloat64) {
  for (const Softcap& cap : kCaps)
    for (const auto& [rows, columns, vocab] :
         {std::array<std::int64_t, 3>{1, 1, 1}, {7, 5, 3}, {40, 1100, 1030}, {3, 4099, 4098}}) {
      Logits z(cpu(), rows, columns, vocab, false);
      const std::vector<double> wide(z.values.begin(), z.values.end());
      const auto memory = exact().allocate(wide.size() * 8, "logits");
      std::vector<std::int32_t> expected(static_cast<std::size_t>(rows));
      const Tensor logits = memory->view(DType::f64, {rows, columns});
      exact().copy_from_host(logits, wide.data());
      exact().sample_targets(logits, vocab, cap, {5, 9}, 0, Tensor(expected.data(), DType::i32, {rows}));
      EXPECT_EQ(z.draw(cap, {5, 9}), expected) << rows << " x " << vocab;
    }
}

// A row's token depends on its place in the batch, not on which call draws it; -1 is left alone; keys differ.
TEST_P(SampleTargetsTest, RowsAreIndependentOfCalls) {
  Logits z(cpu(), 50, 64, 61, false);
  const std::vector<std::int32_t> all = z.draw({}, {1, 2});
  std::vector<std::int32_t> parts;
  for (const auto& [begin, count] : {std::pair<std::int64_t, std::int64_t>{0, 13}, {13, 1}, {14, 36}})
    for (const std::int32_t t : z.draw({}, {1, 2}, begin, count)) parts.push_back(t);
  EXPECT_EQ(parts, all);
  EXPECT_NE(z.draw({}, {1, 3}), all);
  EXPECT_EQ(z.draw({}, {1, 2}, 0, 50, -1), std::vector<std::int32_t>(50, -1));
}

}  // namespace
}  // namespace spectrain
