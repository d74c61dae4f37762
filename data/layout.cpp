#include "data/layout.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/document_layout.h"
#include "data/permutation.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

// In which shard number `index` of an epoch lies: before[s] is the first number of shard s.
std::size_t shard_of(const std::vector<std::int64_t>& before, std::int64_t index) {
  const auto after = std::upper_bound(before.begin(), before.end(), index);
  return static_cast<std::size_t>(after - before.begin()) - 1;
}

class StreamLayout final : public Layout {
 public:
  StreamLayout(const LoaderConfig& config, std::span<const TokenShard> shards)
      : context_(config.context), sequences_(config.sequences), order_(config.order), seed_(config.seed) {
    for (const TokenShard& shard : shards) {
      const std::int64_t held = shard.tokens() > 0 ? (shard.tokens() - 1) / context_ : 0;
      before_.push_back(before_.back() + held);
    }
    if (windows() == 0)
      throw RequestError(fmt::format(
          "{}: no shard holds the {} tokens of one window (context {} + 1); use a shorter context",
          shards.front().path(), context_ + 1, context_));
  }

  std::int64_t windows() const override { return before_.back(); }

  void locate(std::int64_t batch, std::int64_t sequence, std::vector<Stretch>& out) const override {
    const std::int64_t window = window_at(batch * sequences_ + sequence);
    const std::size_t shard = shard_of(before_, window);
    out.push_back({shard, (window - before_[shard]) * context_, context_ + 1});
  }

 private:
  // The window at a position of the endless stream of epochs.
  std::int64_t window_at(std::int64_t position) const {
    const std::int64_t epoch = position / windows(), index = position % windows();
    if (order_ == DataOrder::sequential) return index;
    const KeyedPermutation order(static_cast<std::uint64_t>(windows()),
                                 {seed_, order_stream_ + static_cast<std::uint64_t>(epoch)});
    return static_cast<std::int64_t>(order(static_cast<std::uint64_t>(index)));
  }

  std::int64_t context_, sequences_;
  DataOrder order_;
  std::uint64_t seed_, order_stream_ = stream_of("data order");
  std::vector<std::int64_t> before_{0};  // windows
};

// shards, and with several ranks skewed.
class ShardLayout final : public Layout {
 public:
  ShardLayout(const LoaderConfig& config, std::span<const TokenShard> shards)
      : context_(config.context), step_tokens_(config.sequences * config.context) {
    const bool skewed = config.layout == DataLayout::skewed;
    const std::int64_t ranks = skewed ? config.layout_ranks : 1;
    share_ = config.sequences / ranks;
    before_.resize(static_cast<std::size_t>(ranks), {0});
    for (std::int64_t r = 0; r < ranks; ++r) {
      std::vector<std::int64_t>& before = before_[static_cast<std::size_t>(r)];
      for (const TokenShard& shard : shards) {
        const std::int64_t batches =
            skewed ? batches_of_rank(shard.tokens(), r * share_ * context_) : batches_of(shard.tokens());
        before.push_back(before.back() + batches);
      }
    }
    if (before_.front().back() == 0)
      throw RequestError(
          fmt::format("{}: no shard holds the {} tokens that one step of data.layout {} needs; use fewer "
                      "tokens per step, or data.layout stream, whose steps may go on in the next shard",
                      shards.front().path(), step_tokens_ + (skewed ? 1 : 2), skewed ? "skewed" : "shards"));
  }

  std::int64_t windows() const override {
    std::int64_t sum = 0;
    for (const auto& before : before_) sum += before.back() * share_;
    return sum;
  }

  void locate(std::int64_t batch, std::int64_t sequence, std::vector<Stretch>& out) const override {
    const std::vector<std::int64_t>& before = before_[static_cast<std::size_t>(sequence / share_)];
    const std::int64_t index = batch % before.back();
    const std::size_t shard = shard_of(before, index);
    out.push_back({shard, (index - before[shard]) * step_tokens_ + sequence * context_, context_ + 1});
  }

 private:
  std::int64_t batches_of(std::int64_t tokens) const { return tokens < 2 ? 0 : (tokens - 2) / step_tokens_; }
  std::int64_t batches_of_rank(std::int64_t tokens, std::int64_t offset) const {
    if (tokens < step_tokens_ + 1) return 0;
    return std::max<std::int64_t>(1, (tokens - offset - 2) / step_tokens_);
  }

  std::int64_t context_, step_tokens_;
  std::int64_t share_ = 1;                         // sequences of a rank
  std::vector<std::vector<std::int64_t>> before_;  // batches, by rank
};

void check_layout(const LoaderConfig& c) {
  if (c.layout != DataLayout::stream && c.order != DataOrder::sequential)
    throw RequestError("only data.layout stream can be shuffled; set data.order to sequential");
  if (c.layout != DataLayout::skewed && c.layout != DataLayout::documents) return;
  if (c.layout_ranks < 1 || c.sequences % c.layout_ranks != 0)
    throw RequestError(
        fmt::format("data.layout_ranks is {}, which does not divide the {} sequences of a step",
                    c.layout_ranks, c.sequences));
}

}  // namespace

std::unique_ptr<Layout> make_layout(const LoaderConfig& config, std::span<const TokenShard> shards) {
  check_layout(config);
  if (config.layout == DataLayout::stream) return std::make_unique<StreamLayout>(config, shards);
  if (config.layout == DataLayout::documents) return std::make_unique<DocumentLayout>(config, shards);
  return std::make_unique<ShardLayout>(config, shards);
}

}  // namespace spectrain
