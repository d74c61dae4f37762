#include "kernels/message_collectives.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "fmt/format.h"
#include "kernels/collectives_check.h"

// The caller's side. The stream's: message_stream.cpp.

namespace spectrain {
namespace {

// How long a rank that says nothing waits for the one that tells the user: a launcher may end all ranks with
// the first that ends.
constexpr double kSilence = 3;
// How long fail() waits for the others to know.
constexpr double kFailSeconds = 5;
constexpr std::size_t kFirstOperations = 64;

double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

std::byte* bytes_of(const Tensor& x) { return static_cast<std::byte*>(x.data); }

}  // namespace

std::unique_ptr<Collectives> MessageCollectives::make(std::string name, const RankPlace& place, Join join) {
  std::unique_ptr<MessageCollectives> c(new MessageCollectives(std::move(name), place, std::move(join)));
  std::unique_lock lock(c->mutex_);
  // Each step of joining has the timeout for itself, but another library's calls may have none at all.
  const double patience = 3 * std::min(place.timeout, 1e7) + 10;
  const bool over = c->changed_.wait_for(lock, std::chrono::duration<double>(patience),
                                         [&c] { return c->joined_ || c->join_problem_; });
  const std::exception_ptr problem = c->join_problem_;
  lock.unlock();
  if (problem) std::rethrow_exception(problem);
  if (over) return c;
  const auto* const stuck = c.release();  // its thread is somewhere in there, for ever
  throw Error(fmt::format("the ranks did not come together over {} within {:g} s", stuck->name_, patience));
}

MessageCollectives::MessageCollectives(std::string name, const RankPlace& place, Join join)
    : name_(std::move(name)) {
  link_.place = place;
  ring_.resize(kFirstOperations);
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd_ < 0) throw Error("no event descriptor could be made");
  // Signals are for the program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  stream_ = std::thread([this, join = std::move(join)] { run(join); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

MessageCollectives::~MessageCollectives() {
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
    noticed_ = true;
    abandoned_ = std::uncaught_exceptions() > 0;
  }
  wake();
  stream_.join();
  close(wake_fd_);
}

void MessageCollectives::wake() const {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof one);  // full: it is awake already
}

Event MessageCollectives::submit(const Operation& operation) {
  std::uint64_t number;
  bool idle;
  {
    std::unique_lock lock(mutex_);
    if (failure_) throw_failure(lock);
    const std::uint64_t done = done_.load(std::memory_order_relaxed);
    if (submitted_ - done == ring_.size()) {
      std::vector<Operation> larger(2 * ring_.size());
      for (std::uint64_t n = done + 1; n <= submitted_; ++n)
        larger[n % larger.size()] = ring_[n % ring_.size()];
      ring_.swap(larger);
    }
    idle = submitted_ == done;
    number = ++submitted_;
    ring_[number % ring_.size()] = operation;
  }
  if (idle) wake();
  return Event(number);
}

Event MessageCollectives::all_reduce(const Tensor& x, Reduce op, std::string_view what) {
  check_all_reduce(x, op, what);
  return submit(
      {Kind::all_reduce, nullptr, bytes_of(x), static_cast<std::size_t>(x.numel()), x.dtype, op, 0, what});
}

Event MessageCollectives::reduce_scatter(const Tensor& from, const Tensor& to, std::string_view what) {
  check_reduce_scatter(from, to, ranks(), what);
  const auto count = static_cast<std::size_t>(to.numel());
  return submit({Kind::reduce_scatter, bytes_of(from), bytes_of(to), count, to.dtype, Reduce::sum, 0, what});
}

Event MessageCollectives::reduce(const Tensor& from, const Tensor& to, int root, std::string_view what) {
  check_reduce(from, to, root, rank(), ranks(), what);
  const auto count = static_cast<std::size_t>(from.numel());
  return submit({Kind::reduce, bytes_of(from), bytes_of(to), count, from.dtype, Reduce::sum, root, what});
}

Event MessageCollectives::all_gather(const Tensor& from, const Tensor& to, std::string_view what) {
  check_all_gather(from, to, ranks(), what);
  const auto count = static_cast<std::size_t>(from.numel());
  return submit({Kind::all_gather, bytes_of(from), bytes_of(to), count, to.dtype, Reduce::sum, 0, what});
}

Event MessageCollectives::broadcast(const Tensor& x, int root, std::string_view what) {
  check_broadcast(x, root, ranks(), what);
  const auto count = static_cast<std::size_t>(x.numel());
  return submit({Kind::broadcast, nullptr, bytes_of(x), count, x.dtype, Reduce::sum, root, what});
}

Event MessageCollectives::barrier(std::string_view what) {
  Operation operation;
  operation.what = what;
  return submit(operation);
}

void MessageCollectives::wait(Event event) {
  if (!failed_.load(std::memory_order_acquire) && done_.load(std::memory_order_acquire) >= event.number())
    return;
  std::unique_lock lock(mutex_);
  if (event.number() > submitted_)
    throw std::logic_error(fmt::format("wait for operation {} of {}", event.number(), submitted_));
  const auto begin = Clock::now();
  changed_.wait(lock, [&] { return failure_ || done_.load(std::memory_order_relaxed) >= event.number(); });
  traffic_.waited_seconds += seconds(Clock::now() - begin);
  if (failure_) throw_failure(lock);
}

void MessageCollectives::check() {
  if (!failed_.load(std::memory_order_acquire)) return;
  std::unique_lock lock(mutex_);
  throw_failure(lock);
}

void MessageCollectives::throw_failure(std::unique_lock<std::mutex>& lock) {
  const Verdict failure = *failure_;
  const bool first_time = !noticed_;
  noticed_ = true;
  const bool reports = failure.reporter == rank();
  if (!reports && first_time)
    changed_.wait_for(lock, std::chrono::duration<double>(std::min(kSilence, link_.place.timeout)),
                      [this] { return reporter_ended_; });
  throw PeerFailure(failure.message, reports);
}

bool MessageCollectives::fail(const std::string& message) {
  std::unique_lock lock(mutex_);
  const bool first_time = !noticed_;
  noticed_ = true;
  if (!failure_) {
    fail_request_ = message;
    fail_requested_.store(true, std::memory_order_release);
    wake();
    changed_.wait_for(lock, std::chrono::duration<double>(kFailSeconds),
                      [this] { return failure_.has_value(); });
    if (!failure_) return true;
  }
  if (failure_->reporter == rank()) return true;
  if (first_time)
    changed_.wait_for(lock, std::chrono::duration<double>(std::min(kSilence, link_.place.timeout)),
                      [this] { return reporter_ended_; });
  return false;
}

Traffic MessageCollectives::traffic() const {
  const std::lock_guard lock(mutex_);
  return traffic_;
}

}  // namespace spectrain
