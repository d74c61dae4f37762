#include "train/token_deciles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "data/shard.h"
#include "kernels/random.h"
#include "tests/train/tiny_run.h"
#include "train/session.h"

namespace spectrain {
namespace {

using testing::Each;
using testing::ElementsAre;

void write_shard(const std::string& path, const std::vector<std::int32_t>& tokens) {
  ShardWriter writer(path, TokenWidth::u16);
  writer.write(tokens);
  writer.finish();
}

TEST(TokenCounts, AreThoseOfTheTargetsThatTheLoaderReads) {
  const TinyRun tiny;
  const RunConfig config = with_resolved_model(load_config(tiny.config(), {}));
  const auto loader = training_loader(config);
  std::vector<std::int64_t> expected(257, 0);
  const std::int64_t windows = loader->windows();
  std::vector<std::int32_t> tokens(16), targets(16);
  for (std::int64_t i = 0; i < windows; ++i) {
    loader->read(i / 4, i % 4, 1, tokens, targets);
    for (const std::int32_t t : targets) ++expected[static_cast<std::size_t>(t)];
  }
  const TokenCounts found = count_targets(expand_shards(config.data.train), 16, 257);
  EXPECT_EQ(found.counts, expected);
  EXPECT_EQ(found.counted, windows * 16);
}

TEST(TokenCounts, AreOfThePrefixOfEachShardWhereThereAreTooMany) {
  const ScratchDirectory dir;
  std::vector<std::int32_t> first(101, 1), second(301, 2);
  std::fill(first.begin() + 60, first.end(), 3);
  write_shard(dir / "a.bin", first);
  write_shard(dir / "b.bin", second);
  const std::vector<std::string> shards = {dir / "a.bin", dir / "b.bin"};
  const TokenCounts all = count_targets(shards, 10, 5);
  EXPECT_THAT(all.counts, ElementsAre(0, 59, 300, 41, 0));
  const TokenCounts half = count_targets(shards, 10, 5, 200);
  EXPECT_THAT(half.counts, ElementsAre(0, 50, 150, 0, 0));
  EXPECT_EQ(half.counted, 200);
}

TEST(TokenDeciles, HoldATenthOfTheOccurrencesEach) {
  // Zipf's law over 5,000 tokens, in a mixed order.
  TokenCounts tokens;
  for (std::int64_t i = 0; i < 5000; ++i) tokens.counts.push_back(2'000'000 / (1 + (i * 2741) % 5000));
  tokens.counted = std::accumulate(tokens.counts.begin(), tokens.counts.end(), std::int64_t{0});
  const auto deciles = decile_of_tokens(tokens);
  std::vector<double> share(kDeciles, 0);
  std::vector<std::int64_t> least(kDeciles, INT64_MAX), most(kDeciles, 0);
  for (std::size_t t = 0; t < deciles.size(); ++t) {
    share[deciles[t]] += static_cast<double>(tokens.counts[t]) / static_cast<double>(tokens.counted);
    least[deciles[t]] = std::min(least[deciles[t]], tokens.counts[t]);
    most[deciles[t]] = std::max(most[deciles[t]], tokens.counts[t]);
  }
  // The most frequent token has 11 % of all, the next 5.5 %: half of such a one is what a class can miss.
  EXPECT_NEAR(share[0], 0.1, 0.06);
  for (std::size_t d = 0; d < kDeciles; ++d) EXPECT_NEAR(share[d], 0.1, d < 3 ? 0.06 : 0.006) << d;
  for (std::size_t d = 1; d < kDeciles; ++d) EXPECT_GE(least[d - 1], most[d]) << d;
}

TEST(TokenDeciles, TakeWhatIsNotSpreadEvenly) {
  // Half of all is one token: in the middle of [0, 0.5) it lies in the third class.
  EXPECT_THAT(decile_of_tokens({{50, 30, 0, 20}, 100}), ElementsAre(2, 6, 9, 9));
  EXPECT_THAT(decile_of_tokens({{0, 0}, 0}), Each(9));
  EXPECT_THAT(decile_of_tokens({{7}, 7}), ElementsAre(5));
}

TEST(TokenDeciles, LossesAreThoseOfABruteForceCount) {
  const TinyRun tiny;
  train(tiny.config(), named("run", {"train.steps=6", "diagnostics.deciles=true"}));
  const RunConfig config = with_resolved_model(load_config(tiny.config(), named("run")));
  const TokenCounts counts = count_targets(expand_shards(config.data.train), 16, 257);
  const auto deciles = decile_of_tokens(counts);

  int seen = 0;
  for (const MetricsLine& line : read_metrics(tiny.directory("run") + "/metrics.jsonl").lines) {
    if (!line.val_loss) {
      EXPECT_FALSE(line.diagnostics);
      continue;
    }
    ++seen;
    ASSERT_TRUE(line.diagnostics && line.diagnostics->deciles);
    const DecileMeasurement& d = *line.diagnostics->deciles;
    EXPECT_EQ(d.counted, counts.counted);
    // Together they are the validation loss.
    double sum = 0;
    std::int64_t targets = 0;
    for (std::size_t i = 0; i < kDeciles; ++i) {
      targets += d.targets[i];
      if (d.targets[i] > 0) sum += d.loss[i] * static_cast<double>(d.targets[i]);
      EXPECT_EQ(std::isnan(d.loss[i]), d.targets[i] == 0);
    }
    EXPECT_EQ(targets, 18 * 16);
    EXPECT_NEAR(sum / static_cast<double>(targets), *line.val_loss, 1e-12);
    EXPECT_EQ(std::accumulate(d.types.begin(), d.types.end(), std::int64_t{0}), 257);
  }
  EXPECT_EQ(seen, 2);

  // At a zero head every loss is ln 257; later the classes differ.
  const auto lines = read_metrics(tiny.directory("run") + "/metrics.jsonl").lines;
  for (const double loss : lines.front().diagnostics->deciles->loss)
    if (!std::isnan(loss)) {
      EXPECT_NEAR(loss, std::log(257.0), 1e-6);
    }
  // By class from the validation shard itself.
  std::vector<std::int64_t> targets(kDeciles, 0);
  const TokenShard shard(expand_shards(config.data.validation).front());
  std::vector<std::int32_t> tokens(18 * 16);
  shard.read(1, tokens);
  for (const std::int32_t t : tokens) ++targets[deciles[static_cast<std::size_t>(t)]];
  EXPECT_EQ(lines.back().diagnostics->deciles->targets, targets);
}

TEST(TokenDeciles, EachLossGoesToItsClass) {
  DecileLosses losses({{50, 30, 0, 20}, 100});
  const auto backend = make_cpu_backend({1, false});
  const auto collectives = make_single_collectives();
  for (int round = 0; round < 2; ++round) {
    losses.begin();
    losses.add(std::vector<std::int32_t>{0, 3, -1, 2, 0}, std::vector<double>{1, 5, 100, 8, 2});
    losses.add(std::vector<std::int32_t>{3}, std::vector<double>{2});
    const DecileMeasurement m = losses.measurement(*backend, *collectives);
    EXPECT_EQ(m.loss[2], 1.5);
    EXPECT_EQ(m.loss[9], 5);
    EXPECT_TRUE(std::isnan(m.loss[6]));
    EXPECT_THAT(m.targets, ElementsAre(0, 0, 2, 0, 0, 0, 0, 0, 0, 3));
    EXPECT_THAT(m.types, ElementsAre(0, 0, 1, 0, 0, 0, 1, 0, 0, 2));
  }
}

}  // namespace
}  // namespace spectrain
