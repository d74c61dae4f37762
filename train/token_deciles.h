#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/collectives.h"
#include "train/diagnostics_record.h"

namespace spectrain {

// Ten classes of tokens by how often they are what the training data asks for: rare tokens are where matrix
// optimizers are said to differ from AdamW.

inline constexpr std::size_t kDeciles = 10;

struct TokenCounts {
  std::vector<std::int64_t> counts;  // by id
  std::int64_t counted = 0;          // their sum
};

// How often each token is a target: of each shard of n tokens those at places 1 to floor((n - 1) / context) *
// context. Where that are more than `most`, only so many of them, from the beginning of every shard in equal
// shares. Throws RequestError and Error as TokenShard does.
inline constexpr std::int64_t kMostTargetsCounted = 100'000'000;  // half a second's work
TokenCounts count_targets(std::span<const std::string> shards, std::int64_t context, std::int64_t vocab,
                          std::int64_t most = kMostTargetsCounted);

// Class of each token, 0 the most frequent tokens to 9 the rarest: in the order of falling counts (equal ones
// by id) the tokens fill ten classes of counted / 10 occurrences each, and a token belongs to that in which
// the middle of its occurrences lies. So a very frequent token may leave classes empty. Tokens that were not
// counted at all are of the last class.
std::vector<std::uint8_t> decile_of_tokens(const TokenCounts& tokens);

// Adds up the losses of one validation by class.
class DecileLosses {
 public:
  explicit DecileLosses(const TokenCounts& tokens);

  void begin();
  // losses[i] of targets[i]; a target of -1 counts for nothing.
  void add(std::span<const std::int32_t> targets, std::span<const double> losses);
  // Over all ranks, each of which must call it.
  DecileMeasurement measurement(Backend& backend, Collectives& collectives) const;

 private:
  std::vector<std::uint8_t> deciles_;  // by token
  std::vector<std::int64_t> types_;    // by decile
  std::int64_t counted_ = 0;
  std::vector<double> sums_;  // of losses by decile, and behind them the numbers of targets
};

}  // namespace spectrain
