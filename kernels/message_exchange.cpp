#include "kernels/message_exchange.h"

#include <algorithm>
#include <cstring>

#include "kernels/ordered_sum.h"

namespace spectrain {
namespace {

// Small enough that what arrived is still in a cache when it is added, large enough that the cost of a
// message is lost in it.
constexpr std::size_t kPiece = 512 * 1024;
// Up to here one exchange of everything takes less time than two exchanges of parts.
constexpr std::size_t kShort = 16 * 1024;

}  // namespace

Exchange::Exchange(Transport& transport, int rank, int ranks, std::function<void()> pause)
    : transport_(transport), rank_(rank), ranks_(ranks), pause_(std::move(pause)) {
  const auto others = static_cast<std::size_t>(ranks - 1);
  // With many ranks shorter pieces, so that those that arrive stay within some megabytes.
  piece_ =
      std::clamp<std::size_t>(8 * kPiece / std::max<std::size_t>(others, 1) / 4096 * 4096, kShort, kPiece);
  arrivals_.resize(2 * others * piece_);
  sends_.reserve(others);
  receives_.reserve(others);
  rows_.resize(static_cast<std::size_t>(ranks));
}

std::size_t Exchange::begin_of(int rank, std::size_t count) const {
  // The first count % ranks blocks have one element more.
  const auto r = static_cast<std::size_t>(rank), n = static_cast<std::size_t>(ranks_);
  return r * (count / n) + std::min(r, count % n);
}

void Exchange::clear() {
  sends_.clear();
  receives_.clear();
}

void Exchange::add_send(int peer, const std::byte* data, std::size_t bytes) {
  Flow f;
  f.peer = peer;
  f.data = const_cast<std::byte*>(data);  // only ever read
  f.bytes = bytes;
  f.piece = piece_;
  f.pieces = f.open_until = (bytes + piece_ - 1) / piece_;
  sends_.push_back(f);
}

void Exchange::add_receive(int peer, std::byte* data, std::size_t bytes) {
  add_send(peer, data, bytes);
  receives_.push_back(sends_.back());
  sends_.pop_back();
}

bool Exchange::advance(Flow& f, bool sends) {
  bool changed = false;
  while (f.ended < f.begun && transport_.done(f.requests[f.ended % 2])) {
    (sends ? bytes_sent_ : bytes_received_) += f.size_of_piece(f.ended);
    ++f.ended;
    changed = true;
  }
  // Two at a time: the second fills the pause between the end of the first and this thread's next look.
  while (f.begun < std::min(f.pieces, f.open_until) && f.begun - f.ended < 2) {
    const std::size_t k = f.begun++, n = f.bytes == 0 ? 0 : f.size_of_piece(k);
    f.requests[k % 2] = sends ? transport_.begin_send(f.peer, tag_, f.place_of_piece(k), n)
                              : transport_.begin_receive(f.peer, tag_, f.place_of_piece(k), n);
    changed = true;
  }
  return changed;
}

bool Exchange::advance_all() {
  bool changed = false;
  for (Flow& f : receives_) changed |= advance(f, false);
  for (Flow& f : sends_) changed |= advance(f, true);
  return changed;
}

void Exchange::finish() {
  const auto ended = [](const Flow& f) { return f.ended == f.pieces; };
  for (;;) {
    const bool changed = advance_all();
    if (std::all_of(receives_.begin(), receives_.end(), ended) &&
        std::all_of(sends_.begin(), sends_.end(), ended))
      return clear();
    if (!changed) pause_();
  }
}

std::vector<int> Exchange::missing() const {
  const auto behind = [](const std::vector<Flow>& flows) {
    std::size_t least = SIZE_MAX;
    for (const Flow& f : flows)
      if (f.ended < f.pieces) least = std::min(least, f.ended);
    std::vector<int> ranks;
    for (const Flow& f : flows)
      if (f.ended < f.pieces && f.ended == least) ranks.push_back(f.peer);
    std::sort(ranks.begin(), ranks.end());
    return ranks;
  };
  const std::vector<int> silent = behind(receives_);
  return silent.empty() ? behind(sends_) : silent;
}

void Exchange::reduce_blocks(const std::byte* from, std::byte* to, std::size_t count, std::size_t element,
                             DType dtype, Reduce op) {
  const std::size_t begin = begin_of(rank_, count), mine = begin_of(rank_ + 1, count) - begin;
  for (int step = 1; step < ranks_; ++step) {
    const int peer = other(step);
    const std::size_t theirs = begin_of(peer, count);
    add_send(peer, from + theirs * element, (begin_of(peer + 1, count) - theirs) * element);
    add_arrivals(step, mine * element);
  }
  combine_arrivals(from + begin * element, to, element, dtype, op);
}

void Exchange::add_arrivals(int step, std::size_t bytes) {
  add_receive(other(step), arrivals_.data() + static_cast<std::size_t>(2 * (step - 1)) * piece_, bytes);
  receives_.back().slots = 2;
  receives_.back().open_until = 2;
}

void Exchange::combine_arrivals(const std::byte* own, std::byte* to, std::size_t element, DType dtype,
                                Reduce op) {
  const std::size_t pieces = receives_.front().pieces;
  for (std::size_t k = 0; k < pieces;) {
    const bool changed = advance_all();
    if (!std::all_of(receives_.begin(), receives_.end(), [k](const Flow& f) { return f.ended > k; })) {
      if (!changed) pause_();
      continue;
    }
    for (const Flow& f : receives_) rows_[static_cast<std::size_t>(f.peer)] = f.place_of_piece(k);
    rows_[static_cast<std::size_t>(rank_)] = own + k * piece_;
    combine_in_order(rows_, to + k * piece_, receives_.front().size_of_piece(k) / element, dtype, op);
    ++k;
    for (Flow& f : receives_) f.open_until = k + 2;
  }
  finish();
}

void Exchange::reduce_whole(std::byte* x, std::size_t count, std::size_t element, DType dtype, Reduce op) {
  for (int step = 1; step < ranks_; ++step) {
    std::byte* const place = arrivals_.data() + static_cast<std::size_t>(2 * (step - 1)) * piece_;
    rows_[static_cast<std::size_t>(other(step))] = place;
    add_send(other(step), x, count * element);
    add_receive(other(step), place, count * element);
  }
  finish();
  rows_[static_cast<std::size_t>(rank_)] = x;
  combine_in_order(rows_, x, count, dtype, op);
}

void Exchange::all_reduce(std::byte* x, std::size_t count, DType dtype, Reduce op) {
  const std::size_t element = size_of(dtype), bytes = count * element;
  if (ranks_ == 1 || count == 0) return;
  if (bytes <= kShort) return reduce_whole(x, count, element, dtype, op);
  std::byte* const own = x + begin_of(rank_, count) * element;
  reduce_blocks(x, own, count, element, dtype, op);
  const std::size_t mine = begin_of(rank_ + 1, count) - begin_of(rank_, count);
  for (int step = 1; step < ranks_; ++step) {
    const int peer = other(step);
    const std::size_t theirs = begin_of(peer, count);
    add_send(peer, own, mine * element);
    add_receive(peer, x + theirs * element, (begin_of(peer + 1, count) - theirs) * element);
  }
  finish();
}

void Exchange::reduce_scatter(const std::byte* from, std::byte* to, std::size_t count, DType dtype) {
  const std::size_t element = size_of(dtype), ranks = static_cast<std::size_t>(ranks_);
  if (count == 0) return;
  if (ranks_ > 1) return reduce_blocks(from, to, count * ranks, element, dtype, Reduce::sum);
  if (from != to) std::memmove(to, from, count * element);
}

void Exchange::reduce(const std::byte* from, std::byte* to, std::size_t count, DType dtype, int root) {
  const std::size_t element = size_of(dtype), bytes = count * element;
  if (count == 0) return;
  if (rank_ != root) {
    add_send(root, from, bytes);
    return finish();
  }
  for (int step = 1; step < ranks_; ++step) add_arrivals(step, bytes);
  if (ranks_ > 1) return combine_arrivals(from, to, element, dtype, Reduce::sum);
  if (from != to) std::memmove(to, from, bytes);
}

void Exchange::all_gather(const std::byte* from, std::byte* to, std::size_t bytes) {
  if (bytes == 0) return;
  for (int step = 1; step < ranks_; ++step) {
    add_send(other(step), from, bytes);
    add_receive(other(step), to + static_cast<std::size_t>(other(step)) * bytes, bytes);
  }
  std::byte* const own = to + static_cast<std::size_t>(rank_) * bytes;
  advance_all();  // on their way while this rank copies its own
  if (own != from) std::memcpy(own, from, bytes);
  finish();
}

void Exchange::broadcast(std::byte* x, std::size_t bytes, int root) {
  if (rank_ != root) {
    add_receive(root, x, bytes);
  } else {
    for (int step = 1; step < ranks_; ++step) add_send(other(step), x, bytes);
  }
  finish();
}

void Exchange::barrier() {
  for (int step = 1; step < ranks_; ++step) {
    add_send(other(step), nullptr, 0);
    add_receive(other(step), nullptr, 0);
    sends_.back().pieces = sends_.back().open_until = 1;
    receives_.back().pieces = receives_.back().open_until = 1;
  }
  finish();
}

}  // namespace spectrain
