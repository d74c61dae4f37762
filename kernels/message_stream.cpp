#include <poll.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <stdexcept>

#include "fmt/format.h"
#include "kernels/message_collectives.h"

// The stream's side of MessageCollectives.

namespace spectrain {
namespace {

using namespace std::chrono_literals;

// Where a transport cannot wake anybody, this thread looks again after a sleep that grows from the first to
// the second: the cores are for the computation.
constexpr auto kShortestSleep = 20us, kLongestSleep = 500us;
// A busy transport does not keep the stream from hearing the others for longer than this.
constexpr auto kTurnEvery = 2ms;
// How long the program may stay away from the collectives after a failure, beside the timeout.
constexpr double kAwaySeconds = 5;
constexpr double kSoon = 0.5;  // before last_words

constexpr const char* kNames[] = {"all_reduce", "reduce_scatter", "reduce",
                                  "all_gather", "broadcast",      "barrier"};

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

}  // namespace

void MessageCollectives::run(const Join& join) {
  // The system rounds this thread's sleeps up by 50 us, more than most of them are long.
  prctl(PR_SET_TIMERSLACK, 1000UL);
  try {
    join_others(join);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    join_problem_ = std::current_exception();
    changed_.notify_all();
    return;
  }
  try {
    work();
    leave();
    return;
  } catch (const Stopped&) {
  } catch (const std::exception& e) {
    link_.control->fail(e.what());
    await_verdict();
  }
  after_failure();
}

void MessageCollectives::join_others(const Join& join) {
  const auto meanwhile = [this] {
    if (!link_.control) return;
    link_.control->turn();
    if (const auto& v = link_.control->verdict())
      throw PeerFailure(v->message, v->reporter == link_.place.rank);
  };
  try {
    join(
        link_, [this] { return standing(); }, meanwhile);
  } catch (const PeerFailure&) {
    if (link_.control && link_.control->verdict()->reporter == link_.place.rank) link_.control->abandon();
    throw;
  } catch (const std::exception& e) {
    if (!link_.control) throw;
    link_.control->fail(e.what());
    await_verdict();
    const Verdict& v = *link_.control->verdict();
    if (v.reporter == link_.place.rank) link_.control->abandon();
    throw PeerFailure(v.message, v.reporter == link_.place.rank);
  }
  exchange_ = std::make_unique<Exchange>(*link_.transport, rank(), ranks(), [this] { pause(); });
  const std::lock_guard lock(mutex_);
  joined_ = true;
  changed_.notify_all();
}

void MessageCollectives::work() {
  for (;;) {
    bool has_operation = false;
    {
      const std::lock_guard lock(mutex_);
      if (abandoned_) return;
      if (submitted_ > number_) {
        current_ = ring_[(number_ + 1) % ring_.size()];
        has_operation = true;
      } else if (leaving_) {
        return;
      }
    }
    if (has_operation) {
      carry_out(current_, number_ + 1);
    } else {
      turn();
      rest(Clock::now() + 200ms, false);
    }
  }
}

void MessageCollectives::carry_out(const Operation& operation, std::uint64_t number) {
  const auto begin = Clock::now();
  number_ = number;
  busy_ = true;
  last_move_ = begin;
  exchange_->set_tag(static_cast<int>(number % 32768));
  const std::size_t bytes = operation.count * size_of(operation.dtype);
  switch (operation.kind) {
    case Kind::all_reduce:
      exchange_->all_reduce(operation.to, operation.count, operation.dtype, operation.op);
      break;
    case Kind::reduce_scatter:
      exchange_->reduce_scatter(operation.from, operation.to, operation.count, operation.dtype);
      break;
    case Kind::reduce:
      exchange_->reduce(operation.from, operation.to, operation.count, operation.dtype, operation.root);
      break;
    case Kind::all_gather:
      exchange_->all_gather(operation.from, operation.to, bytes);
      break;
    case Kind::broadcast:
      exchange_->broadcast(operation.to, bytes, operation.root);
      break;
    case Kind::barrier:
      exchange_->barrier();
      break;
  }
  busy_ = false;
  link_.control->moving();
  if (Clock::now() - last_turn_ > kTurnEvery) turn();
  const std::lock_guard lock(mutex_);
  traffic_.bytes_sent = exchange_->bytes_sent();
  traffic_.bytes_received = exchange_->bytes_received();
  traffic_.busy_seconds += seconds(Clock::now() - begin);
  done_.store(number, std::memory_order_release);
  changed_.notify_all();
}

Standing MessageCollectives::standing() const {
  Standing s;
  s.operation = busy_ ? number_ : number_ + 1;
  s.busy = busy_;
  if (busy_) s.missing = exchange_->missing();
  if (number_ == 0) return s;
  s.name = kNames[static_cast<int>(current_.kind)];
  if (!current_.what.empty()) s.name += fmt::format(" of {}", current_.what);
  return s;
}

void MessageCollectives::pause() {
  const bool moved = link_.transport->progress();
  const auto now = Clock::now();
  if (moved) {
    last_move_ = now;
    quiet_rounds_ = 0;
    link_.control->moving();
    if (now - last_turn_ > kTurnEvery) turn();
    return;
  }
  for (int peer = 0; peer < ranks(); ++peer) {
    if (!link_.transport->lost(peer)) continue;
    // First what there is to hear: a peer may have ended because of a failure that this rank is to hear of,
    // and may be the one that tells the user. Then it must not be passed over for having ended.
    turn();
    link_.control->lost(peer);
  }
  const auto timeout_at = last_move_ + std::chrono::duration_cast<Clock::duration>(
                                           std::chrono::duration<double>(std::min(link_.place.timeout, 1e8)));
  if (now >= timeout_at) link_.control->stuck();
  if (now - last_turn_ > kTurnEvery) turn();
  rest(now + 100ms, true);
}

void MessageCollectives::rest(Clock::time_point until, bool operation_at_work) {
  fds_.clear();
  fds_.push_back({wake_fd_, POLLIN, 0});
  link_.control->add_to(fds_);
  const std::size_t heard = fds_.size();
  timespec time{};
  if (!operation_at_work || link_.transport->add_to(fds_)) {
    const auto left = std::max<Clock::duration>(until - Clock::now(), 0ms);
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
    time = {static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
  } else {
    const auto sleep =
        std::min<std::chrono::microseconds>(kLongestSleep, kShortestSleep * (1 + quiet_rounds_++ / 8));
    time.tv_nsec = std::chrono::nanoseconds(sleep).count();
  }
  const int ready = ppoll(fds_.data(), fds_.size(), &time, nullptr);
  if (ready <= 0) return;
  if (fds_[0].revents != 0) take_wake();
  for (std::size_t i = 0; i < heard; ++i)
    if (fds_[i].revents != 0) return turn();
}

void MessageCollectives::take_wake() const {
  std::uint64_t count;
  [[maybe_unused]] const ssize_t n = read(wake_fd_, &count, sizeof count);
}

void MessageCollectives::turn() {
  last_turn_ = Clock::now();
  take_request();
  link_.control->turn();
  if (link_.control->verdict()) throw Stopped();
}

void MessageCollectives::take_request() {
  if (!fail_requested_.load(std::memory_order_acquire)) return;
  const std::lock_guard lock(mutex_);
  if (!fail_request_) return;
  link_.control->fail(*fail_request_);
  fail_request_.reset();
}

void MessageCollectives::await_verdict() {
  // fail() sees to it that there will be one.
  while (!link_.control->verdict()) {
    fds_.clear();
    link_.control->add_to(fds_);
    poll(fds_.data(), fds_.size(), 20);
    link_.control->turn();
  }
}

void MessageCollectives::leave() {
  {
    const std::lock_guard lock(mutex_);
    if (abandoned_) return;
  }
  const auto deadline = after(link_.place.timeout);
  link_.control->goodbye();
  while (!link_.control->farewell() && Clock::now() < deadline) {
    turn();
    if (!link_.control->farewell()) rest(std::min(deadline, Clock::now() + 100ms), false);
  }
  if (link_.control->farewell()) link_.transport->finish();
}

void MessageCollectives::publish_verdict() {
  const std::lock_guard lock(mutex_);
  failure_ = link_.control->verdict();
  failed_.store(true, std::memory_order_release);
  changed_.notify_all();
}

// The stream stays until the program lets go of the collectives, so that others still hear from here; where
// it never does, because it hangs itself, the process ends here.
void MessageCollectives::after_failure() {
  publish_verdict();
  const Verdict verdict = *link_.control->verdict();
  const auto patience = after(link_.place.timeout + kAwaySeconds);
  const auto soon = after(link_.place.last_words ? kSoon : link_.place.timeout + kAwaySeconds);
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (!reporter_ended_ && (link_.control->reporter_ended() || link_.transport->ended(verdict.reporter))) {
        reporter_ended_ = true;
        changed_.notify_all();
      }
      if (leaving_) break;
      const bool reports = verdict.reporter == rank();
      if (!noticed_ && Clock::now() >= (reports || reporter_ended_ ? soon : patience)) {
        if (reports && link_.place.last_words) link_.place.last_words(verdict.message);
        _exit(1);
      }
    }
    fds_.clear();
    fds_.push_back({wake_fd_, POLLIN, 0});
    link_.control->add_to(fds_);
    poll(fds_.data(), fds_.size(), 20);
    take_wake();
    link_.control->turn();
  }
  if (verdict.reporter != rank()) return;
  link_.control->abandon();
  link_.transport->abandon();
}

}  // namespace spectrain
