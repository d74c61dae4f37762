#include "kernels/cuda/nccl_collectives.h"

#include <fmt/format.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "kernels/collectives_check.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/nccl_make.h"

// The caller's side. The watch's: nccl_watch.cpp.

namespace spectrain {
namespace {

// How long a rank that says nothing waits for the one that tells the user: a launcher may end all ranks with
// the first that ends.
constexpr double kSilence = 3;
// How long fail() waits for the others to know.
constexpr double kFailSeconds = 5;
// How long NCCL may take for its own goodbye when all ranks have finished.
constexpr double kFinishSeconds = 10;

ncclDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return ncclFloat64;
    case DType::f32:
      return ncclFloat32;
    case DType::bf16:
      return ncclBfloat16;
    case DType::f16:
      return ncclFloat16;
    case DType::i32:
      return ncclInt32;
  }
  throw std::logic_error("a dtype that NCCL does not have");
}

std::size_t count_of(const Tensor& x) { return static_cast<std::size_t>(x.numel()); }

}  // namespace

NcclCollectives::NcclCollectives(CudaBackend& backend, const RankPlace& place,
                                 const std::function<void()>& meanwhile)
    : backend_(backend), place_(place), nccl_(open_nccl()) {
  token_ = backend_.allocate(sizeof(float), "a barrier's token");
  backend_.fill(token_->view(DType::f32, {1}), 0);
  int lowest = 0, highest = 0;
  check_cuda(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "asking for the priorities of streams");
  // Ahead of the computation: a block of NCCL's that has no room keeps every rank from going on.
  check_cuda(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest), "making a stream");
  check_cuda(cudaEventCreateWithFlags(&ready_, cudaEventDisableTiming), "making an event");
  wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd_ < 0) throw Error("no event descriptor could be made");
  join(meanwhile);
  // Signals are for the program's own threads.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  watch_ = std::thread([this] { watch(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void NcclCollectives::join(const std::function<void()>& meanwhile) {
  const bool several = place_.ranks > 1, first = place_.rank == 0;
  Meeting meeting;
  if (first) meeting.word = NcclCommunicator::make_word(nccl_);
  if (several) {
    const std::string word = meeting.word;
    meeting = meet(place_, first ? listener_of(place_) : Socket(), 0, word);
  }
  control_ =
      std::make_unique<RankControl>(place_, std::move(meeting.channels), [this] { return standing(); });
  const auto hear = [&] {
    if (meanwhile) meanwhile();
    control_->turn();
    if (const auto& v = control_->verdict()) throw PeerFailure(v->message, v->reporter == rank());
  };
  communicator_ = std::make_shared<NcclCommunicator>(nccl_);
  try {
    communicator_->join(meeting.word, place_.rank, place_.ranks, place_.timeout, hear);
  } catch (const std::exception& e) {
    const auto* const peer = dynamic_cast<const PeerFailure*>(&e);
    communicator_->abort();
    if (!control_->verdict() && peer) throw;
    if (!control_->verdict()) control_->fail(e.what());
    await_verdict();
    const Verdict& v = *control_->verdict();
    if (v.reporter == rank()) control_->abandon();
    throw PeerFailure(v.message, v.reporter == rank());
  }
}

NcclCollectives::~NcclCollectives() {
  const bool thrown = std::uncaught_exceptions() > 0;
  // Operations that nobody waited for; the watch ends them where they hang.
  if (!thrown && !failed_.load(std::memory_order_acquire)) cudaStreamSynchronize(stream_);
  {
    const std::lock_guard lock(mutex_);
    leaving_ = true;
    noticed_ = true;
    abandoned_ = thrown;
  }
  wake();
  watch_.join();
  // After a failure another thread may be at abort() already, and NCCL may keep it; nothing here waits for
  // it.
  if (thrown && !failed_.load(std::memory_order_acquire))
    communicator_->abort();
  else if (!failed_.load(std::memory_order_acquire))
    communicator_->finish(kFinishSeconds);
  for (const cudaEvent_t event : events_) cudaEventDestroy(event);
  cudaEventDestroy(ready_);
  cudaStreamDestroy(stream_);
  close(wake_fd_);
}

void NcclCollectives::wake() const {
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t n = write(wake_fd_, &one, sizeof one);  // full: it is awake already
}

// ---------------------------------------------------------------------------------------------- operations

// Called with the lock.
cudaEvent_t NcclCollectives::take_event() {
  if (free_events_.empty()) {
    cudaEvent_t event = nullptr;
    check_cuda(cudaEventCreate(&event), "making an event");
    events_.push_back(event);
    return event;
  }
  const cudaEvent_t event = free_events_.back();
  free_events_.pop_back();
  return event;
}

Event NcclCollectives::submit(Operation operation, const NcclCommunicator::Call& call) {
  if (backend_.recording())
    throw std::logic_error(fmt::format("{} of {} while work is recorded", operation.kind, operation.what));
  check();
  std::uint64_t number = 0;
  bool idle = false;
  {
    const std::lock_guard lock(mutex_);
    operation.begun = take_event();
    operation.done = take_event();
    check_cuda(cudaEventRecord(ready_, backend_.stream()), "recording an event");
    check_cuda(cudaStreamWaitEvent(stream_, ready_, 0), "letting a stream wait");
    check_cuda(cudaEventRecord(operation.begun, stream_), "recording an event");
    idle = operations_.empty();
    number = ++submitted_;
    operations_.push_back(operation);
  }
  if (idle) wake();
  if (call) {
    try {
      communicator_->call(call, [this] { check(); });
    } catch (const PeerFailure&) {
      throw;
    } catch (const Error& e) {
      give_up_call(e.what());
    }
  }
  check_cuda(cudaEventRecord(operation.done, stream_), "recording an event");
  const std::lock_guard lock(mutex_);
  operations_.back().in_stream = true;
  return Event(number);
}

// NCCL refused: most often another rank has ended and the watch will know in a moment; else it is this rank's
// own failure. Throws PeerFailure either way.
void NcclCollectives::give_up_call(const std::string& problem) {
  std::unique_lock lock(mutex_);
  call_problem_ = problem;
  wake();
  changed_.wait(lock, [this] { return failure_.has_value(); });
  throw_failure(lock);
}

std::uint64_t NcclCollectives::bytes_from_others(const Tensor& block) const {
  return block.bytes() * static_cast<std::uint64_t>(place_.ranks - 1);
}

Event NcclCollectives::all_reduce(const Tensor& x, Reduce op, std::string_view what) {
  check_all_reduce(x, op, what);
  // Each rank gives its part of every block but its own away, and gets the sums of the others'.
  const std::uint64_t bytes = 2 * bytes_from_others(x) / static_cast<std::uint64_t>(place_.ranks);
  const ncclRedOp_t how = op == Reduce::sum ? ncclSum : ncclMax;
  NcclCommunicator::Call call;
  if (x.numel() > 0)
    call = [&](ncclComm_t c) {
      return nccl_.all_reduce(x.data, x.data, count_of(x), type_of(x.dtype), how, c, stream_);
    };
  return submit({"all_reduce", what, bytes, bytes}, call);
}

Event NcclCollectives::reduce_scatter(const Tensor& from, const Tensor& to, std::string_view what) {
  check_reduce_scatter(from, to, ranks(), what);
  const std::uint64_t bytes = bytes_from_others(to);
  NcclCommunicator::Call call;
  if (to.numel() > 0)
    call = [&](ncclComm_t c) {
      return nccl_.reduce_scatter(from.data, to.data, count_of(to), type_of(to.dtype), ncclSum, c, stream_);
    };
  return submit({"reduce_scatter", what, bytes, bytes}, call);
}

Event NcclCollectives::reduce(const Tensor& from, const Tensor& to, int root, std::string_view what) {
  check_reduce(from, to, root, rank(), ranks(), what);
  const bool mine = root == rank();
  NcclCommunicator::Call call;
  if (from.numel() > 0)
    call = [&](ncclComm_t c) {
      return nccl_.reduce(from.data, mine ? to.data : nullptr, count_of(from), type_of(from.dtype), ncclSum,
                          root, c, stream_);
    };
  return submit({"reduce", what, mine ? 0 : from.bytes(), mine ? bytes_from_others(from) : 0}, call);
}

Event NcclCollectives::all_gather(const Tensor& from, const Tensor& to, std::string_view what) {
  check_all_gather(from, to, ranks(), what);
  const std::uint64_t bytes = bytes_from_others(from);
  NcclCommunicator::Call call;
  if (from.numel() > 0)
    call = [&](ncclComm_t c) {
      return nccl_.all_gather(from.data, to.data, count_of(from), type_of(from.dtype), c, stream_);
    };
  return submit({"all_gather", what, bytes, bytes}, call);
}

Event NcclCollectives::broadcast(const Tensor& x, int root, std::string_view what) {
  check_broadcast(x, root, ranks(), what);
  const bool mine = root == rank();
  NcclCommunicator::Call call;
  if (x.numel() > 0)
    call = [&](ncclComm_t c) {
      return nccl_.broadcast(x.data, x.data, count_of(x), type_of(x.dtype), root, c, stream_);
    };
  return submit({"broadcast", what, mine ? bytes_from_others(x) : 0, mine ? 0 : x.bytes()}, call);
}

Event NcclCollectives::barrier(std::string_view what) {
  Operation operation{"barrier", what};
  operation.host_waits = true;
  return submit(operation, [this](ncclComm_t c) {
    return nccl_.all_reduce(token_->data(), token_->data(), 1, ncclFloat32, ncclSum, c, stream_);
  });
}

// ---------------------------------------------------------------------------------------------- waiting

void NcclCollectives::wait(Event event) {
  check();
  cudaEvent_t host_waits_for = nullptr;
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t number = event.number();
    if (number > submitted_)
      throw std::logic_error(fmt::format("wait for operation {} of {}", number, submitted_));
    const std::uint64_t over = submitted_ - operations_.size();
    if (number <= over) return;
    if (backend_.recording()) throw std::logic_error("waiting for other ranks while work is recorded");
    const Operation& operation = operations_[static_cast<std::size_t>(number - over - 1)];
    if (operation.host_waits) host_waits_for = operation.done;
    if (number > device_waits_for_) wait_on_device(operation.done);
    device_waits_for_ = std::max(device_waits_for_, number);
  }
  if (!host_waits_for) return;
  // Only this thread records events: this one stays the operation's own while the host stands here.
  const auto begin = Clock::now();
  const cudaError_t status = cudaEventSynchronize(host_waits_for);
  {
    const std::lock_guard lock(mutex_);
    traffic_.waited_seconds += std::chrono::duration<double>(Clock::now() - begin).count();
  }
  check();
  check_cuda(status, "waiting for the other ranks");
}

// Called with the lock.
void NcclCollectives::wait_on_device(cudaEvent_t done) {
  const Stall stall{take_event(), take_event()};
  check_cuda(cudaEventRecord(stall.from, backend_.stream()), "recording an event");
  check_cuda(cudaStreamWaitEvent(backend_.stream(), done, 0), "letting a stream wait");
  check_cuda(cudaEventRecord(stall.to, backend_.stream()), "recording an event");
  stalls_.push_back(stall);
}

void NcclCollectives::check() {
  if (!failed_.load(std::memory_order_acquire)) return;
  std::unique_lock lock(mutex_);
  throw_failure(lock);
}

void NcclCollectives::await_reporter(std::unique_lock<std::mutex>& lock) {
  changed_.wait_for(lock, std::chrono::duration<double>(std::min(kSilence, place_.timeout)),
                    [this] { return reporter_ended_; });
}

void NcclCollectives::throw_failure(std::unique_lock<std::mutex>& lock) {
  const Verdict failure = *failure_;
  const bool first_time = !noticed_, reports = failure.reporter == rank();
  noticed_ = true;
  if (!reports && first_time) await_reporter(lock);
  throw PeerFailure(failure.message, reports);
}

bool NcclCollectives::fail(const std::string& message) {
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
  if (first_time) await_reporter(lock);
  return false;
}

Traffic NcclCollectives::traffic() const {
  const std::lock_guard lock(mutex_);
  return traffic_;
}

std::unique_ptr<Collectives> make_nccl_collectives(Backend& backend, const RankPlace& place,
                                                   const std::function<void()>& meanwhile) {
  auto* const cuda = dynamic_cast<CudaBackend*>(&backend);
  if (!cuda) throw std::logic_error("NCCL needs the CUDA backend, not " + std::string(backend.name()));
  return std::make_unique<NcclCollectives>(*cuda, place, meanwhile);
}

}  // namespace spectrain
