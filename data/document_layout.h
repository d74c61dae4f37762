#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "data/layout.h"

namespace spectrain {

// DataLayout::documents (loader.h). Where a step begins depends on the documents of all steps before it, so
// they are walked through once, as far as anybody has asked; one place per step is kept. A run that goes on
// from a late step reads everything before it at its start, about 0.3 s per 10^8 tokens.
class DocumentLayout final : public Layout {
 public:
  // Finds the first step. Throws RequestError when there is none.
  DocumentLayout(const LoaderConfig& config, std::span<const TokenShard> shards);

  std::int64_t windows() const override { return tokens_ / context_; }
  void locate(std::int64_t batch, std::int64_t sequence, std::vector<Stretch>& out) const override;

 private:
  struct Place {
    std::size_t shard = 0;
    std::int64_t position = 0;
  };
  // By rank: T / W + 1 tokens as stretches one after the other.
  using Slices = std::vector<std::vector<Stretch>>;
  struct Kept {
    std::int64_t batch = 0;
    std::shared_ptr<const Slices> slices;
  };

  // The first document at or behind `from`; the shard's end where there is none.
  std::int64_t next_document(std::size_t shard, std::int64_t from) const;
  // One rank's slice from `position` on, which moves behind it. False: the shard does not hold it.
  bool take_slice(std::size_t shard, std::int64_t& position, std::vector<Stretch>& slice) const;
  // The step at or behind `place`, which moves behind it. False: the epoch is over.
  bool take_step(Place& place, Slices& slices) const;
  std::shared_ptr<const Slices> slices_of(std::int64_t batch) const;

  std::span<const TokenShard> shards_;
  std::int64_t context_, share_, ranks_, tokens_ = 0;  // share_: sequences of a rank
  std::int64_t document_token_, document_length_;

  mutable std::mutex mutex_;
  mutable std::vector<Place> steps_;  // of the epoch, found so far: where to look for each
  mutable Place next_;                // behind the last of them
  mutable bool whole_epoch_ = false;  // steps_ are all
  mutable std::list<Kept> kept_;      // newest first: a step is read in several pieces
};

}  // namespace spectrain
