#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "model/visibility.h"

// The speedrun's block masks (#16 to #21) are lists of full and partial blocks, cut separately. That the
// first keys are the same masks is not obvious: it is shown here for every window, over random documents.

namespace spectrain {
namespace {

constexpr std::int64_t kContext = 48, kBlock = 4, kBlocks = kContext / kBlock;
constexpr std::int32_t kDocument = 0;

using Mask = std::vector<std::vector<bool>>;  // [query][key]

Mask documents_seen(const std::vector<std::int32_t>& tokens) {
  Mask mask(kContext, std::vector<bool>(kContext, false));
  for (std::size_t t = 0; t < kContext; ++t)
    for (std::size_t s = t + 1; s-- > 0;) {
      mask[t][s] = true;
      if (tokens[s] == kDocument) break;
    }
  return mask;
}

std::int64_t pairs_seen(const Mask& mask, std::int64_t query_block, std::int64_t key_block) {
  std::int64_t n = 0;
  for (std::int64_t t = 0; t < kBlock; ++t)
    for (std::int64_t s = 0; s < kBlock; ++s)
      n += mask[static_cast<std::size_t>(query_block * kBlock + t)]
               [static_cast<std::size_t>(key_block * kBlock + s)];
  return n;
}

// Which key blocks a query block keeps: of the full ones (below the diagonal, every pair seen) the last
// min(full, window - 1), of the partial ones (some pair seen) the last min(partial, max(window - full, 1)).
std::vector<bool> kept(const Mask& mask, std::int64_t query_block, std::int64_t window) {
  std::vector<std::int64_t> full, partial;
  for (std::int64_t b = 0; b <= query_block; ++b) {
    const std::int64_t n = pairs_seen(mask, query_block, b);
    if (n == kBlock * kBlock && b < query_block)
      full.push_back(b);
    else if (n > 0)
      partial.push_back(b);
  }
  const auto count = [](const std::vector<std::int64_t>& v) { return static_cast<std::int64_t>(v.size()); };
  std::vector<bool> keep(kBlocks, false);
  const auto keep_last = [&](const std::vector<std::int64_t>& v, std::int64_t most) {
    for (std::int64_t i = std::max<std::int64_t>(0, count(v) - most); i < count(v); ++i)
      keep[static_cast<std::size_t>(v[static_cast<std::size_t>(i)])] = true;
  };
  keep_last(full, std::max<std::int64_t>(0, window - 1));
  keep_last(partial, std::max<std::int64_t>(1, window - count(full)));
  return keep;
}

void expect_same(const std::vector<std::int32_t>& tokens, std::int64_t window) {
  VisibilityConfig c;
  c.documents = true;
  c.document_token = kDocument;
  c.window = {window * kBlock};
  c.window_block = kBlock;
  std::vector<std::int32_t> first(kContext);
  // Half of one block is no block, and means the diagonal.
  first_keys(c, std::max<std::int64_t>(1, window) * kBlock, tokens, kContext, first);
  const Mask seen = documents_seen(tokens);
  for (std::size_t t = 0; t < kContext; ++t) {
    const std::vector<bool> keep = kept(seen, static_cast<std::int64_t>(t) / kBlock, window);
    for (std::size_t s = 0; s < kContext; ++s)
      ASSERT_EQ(s <= t && static_cast<std::int64_t>(s) >= first[t], seen[t][s] && keep[s / kBlock])
          << "window " << window << " query " << t << " key " << s;
  }
}

TEST(BlockWindow, FirstKeysAreFullAndPartialBlocks) {
  std::mt19937 random(5);
  for (const unsigned length : {2u, 5u, 13u, 40u, 1000u})  // of a document, on average
    for (int batch = 0; batch < 20; ++batch) {
      std::vector<std::int32_t> tokens;
      for (std::int64_t i = 0; i < kContext; ++i)
        tokens.push_back(random() % length == 0 ? kDocument : kDocument + 1);
      for (std::int64_t window = 0; window <= kBlocks + 1; ++window) expect_same(tokens, window);
      if (HasFatalFailure()) return;
    }
}

}  // namespace
}  // namespace spectrain
