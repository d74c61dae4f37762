#include "kernels/rank_control.h"

#include <algorithm>

#include "fmt/format.h"

namespace spectrain {
namespace {

// How long a rank may take to say where it stands; one that does not is the one that hangs.
constexpr double kAnswerSeconds = 1;
// How long a data connection may have ended before its rank's connection to rank 0.
constexpr double kLostSeconds = 1;
// How long rank 0 may take to decide: longer than it waits for answers.
constexpr double kVerdictSeconds = 3;

std::string pack(const Standing& s) {
  Packer body;
  body.add(s.operation).add(static_cast<int>(s.busy)).add(static_cast<int>(s.missing.size()));
  for (const int r : s.missing) body.add(r);
  return body.add_text(s.name).text();
}

Standing unpack(const std::string& body) {
  Unpacker in(body);
  Standing s;
  s.operation = in.take<std::uint64_t>();
  s.busy = in.take<int>() != 0;
  const int missing = in.take<int>();
  for (int i = 0; i < missing && in.whole(); ++i) s.missing.push_back(in.take<int>());
  s.name = in.rest();
  return s;
}

bool contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

}  // namespace

RankControl::RankControl(const RankPlace& place, std::vector<Channel> channels,
                         std::function<Standing()> standing)
    : rank_(place.rank),
      ranks_(place.ranks),
      timeout_(place.timeout),
      channels_(std::move(channels)),
      standing_(std::move(standing)),
      gone_(static_cast<std::size_t>(ranks_)),
      left_(static_cast<std::size_t>(ranks_)),
      lost_(static_cast<std::size_t>(ranks_)) {}

Channel* RankControl::channel_of(int rank) {
  return const_cast<Channel*>(static_cast<const RankControl*>(this)->channel_of(rank));
}

const Channel* RankControl::channel_of(int rank) const {
  const auto r = static_cast<std::size_t>(rank);
  const bool there = rank != rank_ && r < channels_.size() && channels_[r].socket();
  return there ? &channels_[r] : nullptr;
}

void RankControl::turn() {
  Frame frame;
  for (int r = 0; r < ranks_; ++r) {
    Channel* const c = channel_of(r);
    if (c == nullptr) continue;
    while (c->receive(frame)) handle(r, frame);
    c->flush();
    if (c->closed() && !gone_[static_cast<std::size_t>(r)]) gone(r);
  }
  if (verdict_) return;
  const auto now = Clock::now();
  if (inquiry_) {
    const auto& s = inquiry_->standings;
    if (now >= inquiry_->end || std::all_of(s.begin(), s.end(), [](const auto& x) { return x.has_value(); }))
      conclude();
  }
  for (int r = 0; r < ranks_ && !verdict_; ++r) {
    auto& since = lost_[static_cast<std::size_t>(r)];
    if (!since || now < *since) continue;
    since.reset();
    fail(fmt::format("the connection to rank {} broke {}", r, moment()));
  }
  if (alone_at_ && now >= *alone_at_ && !verdict_) verdict_ = alone_;
}

void RankControl::handle(int from, const Frame& frame) {
  if (rank_ == 0) {
    handle_as_first(from, frame);
  } else if (frame.notice == Notice::question) {
    channel_of(0)->send(Notice::answer, pack(standing_()));
  } else if (frame.notice == Notice::verdict && !verdict_) {
    Unpacker in(frame.body);
    const int reporter = in.take<int>();
    verdict_ = Verdict{in.rest(), reporter};
  } else if (frame.notice == Notice::farewell) {
    farewell_ = true;
  }
}

void RankControl::handle_as_first(int from, const Frame& frame) {
  switch (frame.notice) {
    case Notice::goodbye:
      left(from);
      break;
    case Notice::failure:
      settle(fmt::format("rank {}: {}", from, frame.body), {});
      break;
    case Notice::stuck:
      inquire(from);
      break;
    case Notice::answer:
      if (inquiry_) inquiry_->standings[static_cast<std::size_t>(from)] = unpack(frame.body);
      break;
    default:
      break;
  }
}

void RankControl::gone(int rank) {
  gone_[static_cast<std::size_t>(rank)] = true;
  if (farewell_ || left_[static_cast<std::size_t>(rank)]) return;
  settle(fmt::format("rank {} ended {}", rank, moment()), {rank});
}

void RankControl::settle(const std::string& message, const std::vector<int>& culprits) {
  if (verdict_) return;
  verdict_ = Verdict{message, reporter_beside(culprits)};
  inquiry_.reset();
  if (rank_ != 0) return;
  const std::string body = Packer().add(verdict_->reporter).add_text(message).text();
  for (int r = 1; r < ranks_; ++r)
    if (Channel* const c = channel_of(r)) c->send(Notice::verdict, body);
}

int RankControl::reporter_beside(const std::vector<int>& culprits) const {
  int second_best = rank_;
  for (int r = ranks_ - 1; r >= 0; --r) {
    const auto i = static_cast<std::size_t>(r);
    if (!contains(culprits, r) && !gone_[i] && !lost_[i]) second_best = r;
  }
  // One that has already finished can tell nobody any more.
  for (int r = second_best; r < ranks_; ++r) {
    const auto i = static_cast<std::size_t>(r);
    if (!contains(culprits, r) && !gone_[i] && !lost_[i] && !left_[i]) return r;
  }
  return second_best;
}

std::string RankControl::moment() const {
  const Standing s = standing_();
  if (s.name.empty()) return "before the first operation";
  return (s.busy ? "during " : "after ") + s.name;
}

std::string RankControl::absence(const std::vector<int>& ranks, const std::string& operation) const {
  return fmt::format("{} did not take part in {} within {:g} s", in_words(ranks), operation, timeout_);
}

void RankControl::stuck() {
  if (stuck_ || verdict_) return;
  stuck_ = true;
  if (rank_ == 0) return inquire(0);
  channel_of(0)->send(Notice::stuck);
  alone_at_ = after(kVerdictSeconds);
  alone_ = {absence({0}, standing_().name), reporter_beside({0})};
}

void RankControl::moving() {
  if (!stuck_) return;
  stuck_ = false;
  alone_at_.reset();
}

void RankControl::lost(int rank) {
  auto& since = lost_[static_cast<std::size_t>(rank)];
  if (!since && !gone_[static_cast<std::size_t>(rank)] && !verdict_) since = after(kLostSeconds);
}

void RankControl::fail(const std::string& message) {
  const std::string whole = fmt::format("rank {}: {}", rank_, message);
  if (rank_ == 0) return settle(whole, {});
  if (Channel* const c = channel_of(0)) c->send(Notice::failure, message);
  if (verdict_) return;
  stuck_ = false;  // nothing that moves takes this back
  alone_at_ = after(kVerdictSeconds);
  alone_ = {whole, rank_};
}

void RankControl::inquire(int asker) {
  if (inquiry_ || verdict_) return;
  inquiry_.emplace();
  inquiry_->asker = asker;
  inquiry_->end = after(kAnswerSeconds);
  inquiry_->standings.resize(static_cast<std::size_t>(ranks_));
  inquiry_->standings[0] = standing_();
  for (int r = 1; r < ranks_; ++r)
    if (Channel* const c = channel_of(r)) c->send(Notice::question);
}

// Whoever does not even answer hangs. If all answer, those are to blame that have not come to the first
// operation that somebody cannot get past; if all are in it, those the asker waits for, where it knows.
void RankControl::conclude() {
  const Inquiry inquiry = std::move(*inquiry_);
  inquiry_.reset();
  const auto& asker = inquiry.standings[static_cast<std::size_t>(inquiry.asker)];
  if (asker && !asker->busy) return;  // it came through at the last moment
  const Standing* first = nullptr;
  std::vector<int> silent, late;
  for (int r = 0; r < ranks_; ++r) {
    const auto& s = inquiry.standings[static_cast<std::size_t>(r)];
    if (!s) silent.push_back(r);
    if (s && s->busy && (first == nullptr || s->operation < first->operation)) first = &*s;
  }
  if (first == nullptr) return;
  for (int r = 0; r < ranks_; ++r) {
    const auto& s = inquiry.standings[static_cast<std::size_t>(r)];
    if (s && !s->busy && s->operation <= first->operation) late.push_back(r);
  }
  std::vector<int> culprits = !silent.empty() ? silent : late;
  if (culprits.empty()) culprits = asker ? asker->missing : first->missing;
  if (culprits.empty())
    return settle(fmt::format("{} did not end within {:g} s, though all ranks take part in it; the network "
                              "between them may be at fault",
                              first->name, timeout_),
                  {});
  settle(absence(culprits, first->name), culprits);
}

void RankControl::left(int rank) {
  left_[static_cast<std::size_t>(rank)] = true;
  if (!std::all_of(left_.begin(), left_.end(), [](char x) { return x != 0; })) return;
  farewell_ = true;
  for (int r = 1; r < ranks_; ++r)
    if (Channel* const c = channel_of(r)) c->send(Notice::farewell);
}

void RankControl::goodbye() {
  if (rank_ == 0) return left(0);
  if (Channel* const c = channel_of(0)) c->send(Notice::goodbye);
}

bool RankControl::reporter_ended() const {
  if (!verdict_ || verdict_->reporter == rank_) return false;
  const Channel* const c = channel_of(verdict_->reporter);
  return c != nullptr && c->closed();
}

void RankControl::abandon() {
  for (Channel& c : channels_) c.abandon();
}

void RankControl::add_to(std::vector<pollfd>& fds) const {
  for (const Channel& c : channels_)
    if (c.socket() && !c.closed())
      fds.push_back({c.socket().fd(), static_cast<short>(c.wants_to_write() ? POLLIN | POLLOUT : POLLIN), 0});
}

}  // namespace spectrain
