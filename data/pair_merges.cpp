#include "data/pair_merges.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <utility>

namespace spectrain {

PairMerges::PairMerges(const std::array<std::int32_t, 256>& byte_ids, const std::vector<Merge>& merges)
    : byte_ids_(byte_ids) {
  const std::size_t size = std::bit_ceil(std::max<std::size_t>(2 * merges.size(), 16));
  table_.resize(size);
  shift_ = 64 - std::countr_zero(size);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const Merge& merge = merges[rank];
    const std::uint64_t pair = key(merge.left, merge.right);
    std::size_t i = place(pair);
    while (table_[i].rank != kNone && table_[i].pair != pair) i = (i + 1) & (size - 1);
    if (table_[i].rank == kNone) table_[i] = {pair, static_cast<std::int32_t>(rank), merge.result};
  }
}

void PairMerges::encode(std::string_view word, std::vector<std::int32_t>& ids) const {
  word.size() < kLongWord ? encode_short(word, ids) : encode_long(word, ids);
}

void PairMerges::encode_short(std::string_view word, std::vector<std::int32_t>& ids) const {
  std::int32_t id[kLongWord], rank[kLongWord],
      result[kLongWord];  // rank[i], result[i]: of the pair (i, i + 1)
  std::size_t n = word.size();
  for (std::size_t i = 0; i < n; ++i) id[i] = byte_ids_[static_cast<unsigned char>(word[i])];
  const auto look_up = [&](std::size_t i) {
    const Entry& entry = find(id[i], id[i + 1]);
    rank[i] = entry.rank;
    result[i] = entry.result;
  };
  for (std::size_t i = 0; i + 1 < n; ++i) look_up(i);
  while (n > 1) {
    const auto best = static_cast<std::size_t>(std::min_element(rank, rank + n - 1) - rank);
    if (rank[best] == kNone) break;
    id[best] = result[best];
    for (std::size_t i = best + 1; i + 1 < n; ++i) id[i] = id[i + 1];
    for (std::size_t i = best + 1; i + 2 < n; ++i) {
      rank[i] = rank[i + 1];
      result[i] = result[i + 1];
    }
    --n;
    if (best + 1 < n) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  ids.insert(ids.end(), id, id + n);
}

// A heap of (rank, position) over a linked list; an entry whose pair has changed meanwhile is skipped.
void PairMerges::encode_long(std::string_view word, std::vector<std::int32_t>& ids) const {
  struct Node {
    std::int32_t id;
    std::int64_t before, after;  // -1: none
  };
  const auto n = static_cast<std::int64_t>(word.size());
  std::vector<Node> nodes(word.size());
  using Candidate = std::pair<std::int32_t, std::int64_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> heap;
  const auto node = [&](std::int64_t i) -> Node& { return nodes[static_cast<std::size_t>(i)]; };
  const auto propose = [&](std::int64_t i) {
    if (i < 0 || node(i).after < 0) return;
    const Entry& entry = find(node(i).id, node(node(i).after).id);
    if (entry.rank != kNone) heap.emplace(entry.rank, i);
  };
  for (std::int64_t i = 0; i < n; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    node(i) = {byte_ids_[byte], i - 1, i + 1 < n ? i + 1 : -1};
  }
  for (std::int64_t i = 0; i < n; ++i) propose(i);
  while (!heap.empty()) {
    const auto [rank, i] = heap.top();
    heap.pop();
    Node& left = node(i);
    if (left.id < 0 || left.after < 0) continue;  // swallowed, or now the last
    Node& right = node(left.after);
    const Entry& entry = find(left.id, right.id);
    if (entry.rank != rank) continue;
    left.id = entry.result;
    left.after = right.after;
    right.id = -1;
    if (left.after >= 0) node(left.after).before = i;
    propose(left.before);
    propose(i);
  }
  for (std::int64_t i = 0; i >= 0; i = node(i).after) ids.push_back(node(i).id);
}

}  // namespace spectrain
