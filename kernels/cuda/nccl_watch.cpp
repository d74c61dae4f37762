#include <fmt/format.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/nccl_collectives.h"

// The watch's side of NcclCollectives.

namespace spectrain {
namespace {

// Between two looks at the streams while something is at work there; nobody waits for the answer.
constexpr int kLookMilliseconds = 1, kIdleMilliseconds = 200;
// How long the program may stay away from the collectives after a failure, beside the timeout.
constexpr double kAwaySeconds = 5;
constexpr double kSoon = 0.5;  // before last_words
// How long NCCL's own error waits for a better reason: most often a rank has ended.
constexpr double kProblemSeconds = 1;

// Whether the event has come. Throws Error when the device has failed.
bool over(cudaEvent_t event) {
  const cudaError_t status = cudaEventQuery(event);
  if (status == cudaErrorNotReady) return false;
  check_cuda(status, "an operation of several ranks");
  return true;
}

bool passed(Clock::time_point since, double seconds) {
  return std::chrono::duration<double>(Clock::now() - since).count() >= seconds;
}

double seconds_between(cudaEvent_t from, cudaEvent_t to) {
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, from, to), "measuring time");
  return static_cast<double>(milliseconds) / 1000;
}

}  // namespace

void NcclCollectives::watch() {
  prctl(PR_SET_TIMERSLACK, 100000UL);
  try {
    check_cuda(cudaSetDevice(backend_.options().device), "choosing a device");
    while (!may_leave()) {
      turn();
      look();
      rest();
    }
    leave();
    return;
  } catch (const Stopped&) {
  } catch (const std::exception& e) {
    control_->fail(e.what());
    await_verdict();
  }
  after_failure();
}

bool NcclCollectives::may_leave() {
  const std::lock_guard lock(mutex_);
  return leaving_;
}

void NcclCollectives::turn() {
  std::optional<std::string> request;
  if (fail_requested_.load(std::memory_order_acquire)) {
    const std::lock_guard lock(mutex_);
    request.swap(fail_request_);
  }
  if (request) control_->fail(*request);
  control_->turn();
  if (control_->verdict()) throw Stopped();
}

void NcclCollectives::look() {
  look_at_operations();
  look_at_stalls();
  look_at_nccl();
  if (at_work_since_ && passed(*at_work_since_, place_.timeout)) control_->stuck();
}

// "all_gather of the weights of bucket 0"
std::string NcclCollectives::name_of(const Operation& o) {
  return fmt::format("{}{}{}", o.kind, o.what.empty() ? "" : " of ", o.what);
}

void NcclCollectives::look_at_operations() {
  bool moved = false;
  {
    const std::lock_guard lock(mutex_);
    while (!operations_.empty() && operations_.front().in_stream && over(operations_.front().done)) {
      const Operation& o = operations_.front();
      traffic_.busy_seconds += seconds_between(o.begun, o.done);
      traffic_.bytes_sent += o.sent;
      traffic_.bytes_received += o.received;
      standing_.name = name_of(o);
      free_events_.insert(free_events_.end(), {o.begun, o.done});
      operations_.pop_front();
      moved = true;
    }
    // A call that NCCL does not come back from waits for other ranks, too.
    const Operation* const first = operations_.empty() ? nullptr : &operations_.front();
    standing_.operation = submitted_ - operations_.size() + 1;
    standing_.busy = first && (!first->in_stream || over(first->begun));
    if (standing_.busy) standing_.name = name_of(*first);
  }
  if (moved || !standing_.busy) {
    at_work_since_.reset();
    control_->moving();
  }
  if (standing_.busy && !at_work_since_) at_work_since_ = Clock::now();
}

void NcclCollectives::look_at_stalls() {
  const std::lock_guard lock(mutex_);
  while (!stalls_.empty() && over(stalls_.front().to)) {
    traffic_.waited_seconds += seconds_between(stalls_.front().from, stalls_.front().to);
    free_events_.insert(free_events_.end(), {stalls_.front().from, stalls_.front().to});
    stalls_.pop_front();
  }
}

void NcclCollectives::look_at_nccl() {
  std::string problem = communicator_->problem();
  if (problem.empty()) {
    const std::lock_guard lock(mutex_);
    problem = call_problem_;
  }
  if (problem.empty()) return;
  if (!problem_since_) {
    problem_since_ = Clock::now();
    problem_ = problem;
  }
  if (passed(*problem_since_, kProblemSeconds))
    throw Error(standing_.busy ? problem_ + " in " + standing_.name : problem_);
}

void NcclCollectives::rest() {
  bool idle = false;
  {
    const std::lock_guard lock(mutex_);
    idle = operations_.empty() && stalls_.empty() && !problem_since_;
  }
  fds_.clear();
  fds_.push_back({wake_fd_, POLLIN, 0});
  control_->add_to(fds_);
  poll(fds_.data(), fds_.size(), idle ? kIdleMilliseconds : kLookMilliseconds);
  std::uint64_t count;
  [[maybe_unused]] const ssize_t n = read(wake_fd_, &count, sizeof count);
}

void NcclCollectives::leave() {
  {
    const std::lock_guard lock(mutex_);
    if (abandoned_) return;
  }
  const auto deadline = after(place_.timeout);
  control_->goodbye();
  while (!control_->farewell() && Clock::now() < deadline) {
    turn();
    if (!control_->farewell()) rest();
  }
}

void NcclCollectives::await_verdict() {
  // fail() sees to it that there will be one.
  while (!control_->verdict()) {
    fds_.clear();
    control_->add_to(fds_);
    poll(fds_.data(), fds_.size(), 20);
    control_->turn();
  }
}

void NcclCollectives::publish_verdict() {
  const std::lock_guard lock(mutex_);
  failure_ = control_->verdict();
  failed_.store(true, std::memory_order_release);
  changed_.notify_all();
}

// As in message_stream.cpp: the watch stays until the program lets go of the collectives, so that others
// still hear from here; where it never does, because it hangs itself, the process ends here.
void NcclCollectives::after_failure() {
  publish_verdict();  // before anything goes on: what it then finds in memory is worth nothing
  // On a thread of its own, which nobody waits for: NCCL may not come back from it.
  std::thread([communicator = communicator_] { communicator->abort(); }).detach();
  const Verdict verdict = *control_->verdict();
  const bool reports = verdict.reporter == rank();
  const auto patience = after(place_.timeout + kAwaySeconds);
  const auto soon = after(place_.last_words ? kSoon : place_.timeout + kAwaySeconds);
  for (;;) {
    {
      const std::lock_guard lock(mutex_);
      if (!reporter_ended_ && control_->reporter_ended()) {
        reporter_ended_ = true;
        changed_.notify_all();
      }
      if (leaving_) break;
      if (!noticed_ && Clock::now() >= (reports || reporter_ended_ ? soon : patience)) {
        if (reports && place_.last_words) place_.last_words(verdict.message);
        _exit(1);
      }
    }
    fds_.clear();
    fds_.push_back({wake_fd_, POLLIN, 0});
    control_->add_to(fds_);
    poll(fds_.data(), fds_.size(), 20);
    std::uint64_t count;
    [[maybe_unused]] const ssize_t n = read(wake_fd_, &count, sizeof count);
    control_->turn();
  }
  if (reports) control_->abandon();
}

}  // namespace spectrain
