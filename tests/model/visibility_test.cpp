#include "model/visibility.h"

#include <gtest/gtest.h>

#include <random>

#include "model/transformer.h"

namespace spectrain {
namespace {

VisibilityConfig window(std::vector<std::int64_t> tokens, std::int64_t multiple = 1, bool up = false,
                        std::int64_t block = 1) {
  VisibilityConfig c;
  c.window = std::move(tokens);
  c.window_multiple = multiple;
  c.window_rounds_up = up;
  c.window_block = block;
  return c;
}

// The formulas of the records, as their code states them (speedrun #12, #13, #18, #20).
TEST(Window, GrowsAsInTheRecords) {
  const int steps = 1750;
  for (int step = 0; step <= steps; ++step) {
    const double x = static_cast<double>(step) / steps;
    SCOPED_TRACE(step);
    EXPECT_EQ(window_at(window({1024}), x), 1024);
    EXPECT_EQ(window_at(window({64, 1792}, 64), x), 64 * ((step * 1728 + 64 * steps) / (64 * steps)));
    EXPECT_EQ(window_at(window({128, 1856}, 128, false, 128), x),
              128 * ((128 * (steps - step) + 1856 * step) / (128 * steps)));
    const int exact = 1728 * step;  // the smallest multiple of 128, at least one, that is not below 1728 x
    int blocks = 1;
    while (128 * blocks * steps < exact) ++blocks;
    const std::int64_t w = window_at(window({0, 1728}, 128, true, 128), x);
    EXPECT_EQ(w, 128 * blocks);
    EXPECT_EQ(short_window(window({0, 1728}, 128, true, 128), w), 128 * std::max(1, blocks / 2));
  }
  EXPECT_EQ(window_at(VisibilityConfig{}, 0.5), 0);
  EXPECT_EQ(short_window(VisibilityConfig{}, 0), 0);
}

// The key s is seen by the query t: the definition, one pair at a time.
bool seen(const VisibilityConfig& c, std::int64_t w, const std::int32_t* tokens, std::int64_t s,
          std::int64_t t) {
  if (s > t) return false;
  if (c.documents)
    for (std::int64_t i = s + 1; i <= t; ++i)
      if (tokens[i] == c.document_token) return false;
  return w == 0 || s / c.window_block > t / c.window_block - w / c.window_block;
}

TEST(FirstKeys, AreWhereSeeingBegins) {
  std::mt19937 random(1);
  const std::int64_t context = 61, sequences = 3;
  std::vector<std::int32_t> tokens, first(static_cast<std::size_t>(context * sequences));
  for (std::int64_t i = 0; i < context * sequences; ++i)
    tokens.push_back(static_cast<std::int32_t>(random() % 9));
  for (const bool documents : {false, true})
    for (const std::int64_t block : {1, 4, 16})
      for (const std::int64_t w : {std::int64_t{0}, block, 2 * block, 5 * block, 100 * block}) {
        VisibilityConfig c = window({w}, block, false, block);
        c.documents = documents;
        c.document_token = 4;
        first_keys(c, w, tokens, context, first);
        double keys = 0;
        for (std::int64_t b = 0; b < sequences; ++b)
          for (std::int64_t t = 0; t < context; ++t) {
            const std::int64_t begin = first[static_cast<std::size_t>(b * context + t)];
            for (std::int64_t s = 0; s < context; ++s)
              ASSERT_EQ(s >= begin && s <= t, seen(c, w, tokens.data() + b * context, s, t))
                  << "documents " << documents << " block " << block << " window " << w << " key " << s
                  << " query " << t;
            keys += static_cast<double>(t + 1 - begin) / static_cast<double>(context * sequences);
          }
        if (!documents) {
          EXPECT_NEAR(mean_keys(c, w, context), keys, 1e-9);
        }
      }
}

TEST(FirstKeys, NeedWholeSequences) {
  std::vector<std::int32_t> tokens(10), first(10), few(9);
  EXPECT_THROW(first_keys({}, 0, tokens, 4, first), std::logic_error);
  EXPECT_THROW(first_keys({}, 0, tokens, 5, few), std::logic_error);
}

}  // namespace
}  // namespace spectrain
