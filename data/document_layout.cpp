#include "data/document_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "kernels/error.h"

namespace spectrain {
namespace {

constexpr std::size_t kStepsKept = 4;  // a prefetch runs ahead of the reader by no more
constexpr std::int64_t kChunk = 1024;  // tokens looked through at a time: about a document

}  // namespace

DocumentLayout::DocumentLayout(const LoaderConfig& config, std::span<const TokenShard> shards)
    : shards_(shards),
      context_(config.context),
      share_(config.sequences / config.layout_ranks),
      ranks_(config.layout_ranks),
      document_token_(config.document_token),
      document_length_(config.document_length) {
  for (const TokenShard& shard : shards_) tokens_ += shard.tokens();
  Slices first;
  if (!take_step(next_, first))
    throw RequestError(
        fmt::format("{}: no shard holds one step of data.layout documents, {} slices of {} tokens that begin "
                    "with token {}; use fewer tokens per step, or check data.document_token",
                    shards_.front().path(), ranks_, share_ * context_ + 1, document_token_));
  steps_.push_back({});
}

std::int64_t DocumentLayout::next_document(std::size_t shard, std::int64_t from) const {
  const std::int64_t end = shards_[shard].tokens();
  std::array<std::int32_t, kChunk> chunk;
  for (std::int64_t begin = from; begin < end; begin += kChunk) {
    const auto tokens = std::span(chunk).first(static_cast<std::size_t>(std::min(kChunk, end - begin)));
    shards_[shard].read(begin, tokens);
    const auto found = std::find(tokens.begin(), tokens.end(), document_token_);
    if (found != tokens.end()) return begin + (found - tokens.begin());
  }
  return end;
}

bool DocumentLayout::take_slice(std::size_t shard, std::int64_t& position,
                                std::vector<Stretch>& slice) const {
  const std::int64_t end = shards_[shard].tokens(), share = share_ * context_;
  std::int64_t left = share + 1;  // one more, which is only a target
  slice.clear();
  if (document_length_ == 0) {
    const std::int64_t start = next_document(shard, position);
    if (left > end - start) return false;
    slice.push_back({shard, start, left});
    position = start + share;
    return true;
  }
  while (left > 0) {
    const std::int64_t start = next_document(shard, position);
    if (start >= end) return false;
    position = next_document(shard, start + 1);
    slice.push_back({shard, start, std::min({position - start, document_length_, left})});
    left -= slice.back().count;
  }
  return true;
}

bool DocumentLayout::take_step(Place& place, Slices& slices) const {
  slices.resize(static_cast<std::size_t>(ranks_));
  while (place.shard < shards_.size()) {
    const bool held = std::all_of(slices.begin(), slices.end(), [&](std::vector<Stretch>& slice) {
      return take_slice(place.shard, place.position, slice);
    });
    if (held) return true;
    place = {place.shard + 1, 0};
  }
  return false;
}

std::shared_ptr<const DocumentLayout::Slices> DocumentLayout::slices_of(std::int64_t batch) const {
  const std::lock_guard lock(mutex_);
  auto slices = std::make_shared<Slices>();
  while (!whole_epoch_ && batch >= static_cast<std::int64_t>(steps_.size())) {
    const Place begin = next_;
    if (take_step(next_, *slices))
      steps_.push_back(begin);
    else
      whole_epoch_ = true;
  }
  batch %= static_cast<std::int64_t>(steps_.size());
  const auto found =
      std::find_if(kept_.begin(), kept_.end(), [&](const Kept& k) { return k.batch == batch; });
  if (found != kept_.end()) return found->slices;
  Place place = steps_[static_cast<std::size_t>(batch)];
  take_step(place, *slices);
  kept_.push_front({batch, slices});
  if (kept_.size() > kStepsKept) kept_.pop_back();
  return slices;
}

void DocumentLayout::locate(std::int64_t batch, std::int64_t sequence, std::vector<Stretch>& out) const {
  const std::shared_ptr<const Slices> slices = slices_of(batch);
  std::int64_t skip = sequence % share_ * context_, left = context_ + 1;
  for (const Stretch& s : (*slices)[static_cast<std::size_t>(sequence / share_)]) {
    const std::int64_t passed = std::min(skip, s.count), taken = std::min(s.count - passed, left);
    if (taken > 0) out.push_back({s.shard, s.first + passed, taken});
    skip -= passed;
    left -= taken;
    if (left == 0) return;
  }
}

}  // namespace spectrain
