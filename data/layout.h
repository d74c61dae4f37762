#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "data/loader.h"
#include "data/shard.h"

namespace spectrain {

// Tokens [first, first + count) of a shard.
struct Stretch {
  std::size_t shard = 0;
  std::int64_t first = 0, count = 0;
};

// The index arithmetic of one DataLayout (loader.h). Thread-safe.
class Layout {
 public:
  virtual ~Layout() = default;
  virtual std::int64_t windows() const = 0;  // TokenLoader::windows()
  // Appends the stretches that are, one after the other, the context + 1 tokens of sequence `sequence` of
  // batch `batch`, both from 0.
  virtual void locate(std::int64_t batch, std::int64_t sequence, std::vector<Stretch>& out) const = 0;
};

// `shards` must outlive the layout. Throws RequestError, one sentence, when the shards do not hold a single
// step, or the options do not fit each other.
std::unique_ptr<Layout> make_layout(const LoaderConfig& config, std::span<const TokenShard> shards);

}  // namespace spectrain
