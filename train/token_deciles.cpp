#include "train/token_deciles.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "data/shard.h"

namespace spectrain {

TokenCounts count_targets(std::span<const std::string> shards, std::int64_t context, std::int64_t vocab,
                          std::int64_t most) {
  TokenCounts out{std::vector<std::int64_t>(static_cast<std::size_t>(vocab), 0), 0};
  std::vector<TokenShard> open;
  std::vector<std::int64_t> targets;
  for (const std::string& path : shards) {
    const TokenShard& shard = open.emplace_back(path);
    targets.push_back(shard.tokens() > 0 ? (shard.tokens() - 1) / context * context : 0);
  }
  const std::int64_t all = std::accumulate(targets.begin(), targets.end(), std::int64_t{0});
  const double share = all > most ? static_cast<double>(most) / static_cast<double>(all) : 1;
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < open.size(); ++i) {
    const std::int64_t end =
        share < 1 ? static_cast<std::int64_t>(share * static_cast<double>(targets[i])) : targets[i];
    constexpr std::int64_t kAtOnce = 1 << 16;
    for (std::int64_t first = 0; first < end; first += kAtOnce) {
      tokens.resize(static_cast<std::size_t>(std::min(kAtOnce, end - first)));
      open[i].read(1 + first, tokens, vocab);
      for (const std::int32_t t : tokens) ++out.counts[static_cast<std::size_t>(t)];
    }
    out.counted += end;
  }
  return out;
}

std::vector<std::uint8_t> decile_of_tokens(const TokenCounts& tokens) {
  const std::vector<std::int64_t>& counts = tokens.counts;
  std::vector<std::size_t> order(counts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return counts[a] > counts[b]; });
  std::vector<std::uint8_t> deciles(counts.size(), kDeciles - 1);
  std::int64_t before = 0;
  for (const std::size_t t : order) {
    if (counts[t] == 0) break;
    // The middle of its occurrences, before + counts / 2, in tenths of all, without a fraction's rounding.
    const auto tenth = (2 * before + counts[t]) * static_cast<std::int64_t>(kDeciles) / (2 * tokens.counted);
    deciles[t] = static_cast<std::uint8_t>(std::min<std::int64_t>(tenth, kDeciles - 1));
    before += counts[t];
  }
  return deciles;
}

DecileLosses::DecileLosses(const TokenCounts& tokens)
    : deciles_(decile_of_tokens(tokens)), types_(kDeciles, 0), counted_(tokens.counted) {
  for (const std::uint8_t d : deciles_) ++types_[d];
  begin();
}

void DecileLosses::begin() { sums_.assign(2 * kDeciles, 0); }

void DecileLosses::add(std::span<const std::int32_t> targets, std::span<const double> losses) {
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (targets[i] < 0) continue;
    const std::size_t d = deciles_[static_cast<std::size_t>(targets[i])];
    sums_[d] += losses[i];
    sums_[kDeciles + d] += 1;
  }
}

DecileMeasurement DecileLosses::measurement(Backend& backend, Collectives& collectives) const {
  std::vector<double> sums = sums_;
  if (collectives.ranks() > 1) {
    const auto memory = backend.allocate(sums.size() * sizeof(double), "the losses of token classes");
    const Tensor x = memory->view(DType::f64, {static_cast<std::int64_t>(sums.size())});
    backend.copy_from_host(x, sums.data());
    collectives.wait(collectives.all_reduce(x, Reduce::sum, "the losses of token classes"));
    backend.copy_to_host(sums.data(), x);
    collectives.check();
  }
  DecileMeasurement out{counted_, {}, {}, types_};
  for (std::size_t d = 0; d < kDeciles; ++d) {
    const double n = sums[kDeciles + d];
    out.loss.push_back(n > 0 ? sums[d] / n : std::numeric_limits<double>::quiet_NaN());
    out.targets.push_back(static_cast<std::int64_t>(n));
  }
  return out;
}

}  // namespace spectrain
