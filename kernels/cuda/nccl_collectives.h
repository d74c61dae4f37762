#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "kernels/collectives.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/nccl_communicator.h"
#include "kernels/rank_control.h"

// Collectives of GPUs through NCCL, each rank with one CudaBackend. Operations run in a stream of their own,
// after what the backend was asked for before; wait() makes the backend's stream wait, not the host, except
// for barriers, which stand for what is outside the device (files). So results are in the host's hands after
// Backend::copy_to_host, and to be trusted after the check() that follows it.
//
// Sums are NCCL's: deterministic for the same ranks on the same machines with the same NCCL, bf16 rounded
// between steps, not the bits of the CPU's ranks. Reduce::max of a NaN and a number may be the number.
//
// NCCL waits for a missing rank for ever. A thread, the watch, hears the other ranks over connections of its
// own (RankControl), looks at the streams' events, and when a rank has ended or an operation is at work for
// longer than the timeout it ends NCCL's work on this rank too: what waits for it on the device and on the
// host goes on, with rubbish in memory, to the check() that throws.

namespace spectrain {

class NcclCollectives final : public Collectives {
 public:
  // Comes together with the other ranks at place.address and place.port. `meanwhile` is called while waiting
  // and may throw. Throws Error for what is wrong with this rank alone, before the others have met it;
  // PeerFailure for all else.
  NcclCollectives(CudaBackend& backend, const RankPlace& place, const std::function<void()>& meanwhile = {});
  // Waits, up to the timeout, for the other ranks to finish. Not while an exception is on its way through
  // this thread: then the others are to see that this rank ended.
  ~NcclCollectives() override;
  NcclCollectives(const NcclCollectives&) = delete;
  NcclCollectives& operator=(const NcclCollectives&) = delete;

  std::string_view name() const override { return "nccl"; }
  int rank() const override { return place_.rank; }
  int ranks() const override { return place_.ranks; }

  Event all_reduce(const Tensor& x, Reduce op, std::string_view what) override;
  Event reduce_scatter(const Tensor& from, const Tensor& to, std::string_view what) override;
  Event reduce(const Tensor& from, const Tensor& to, int root, std::string_view what) override;
  Event all_gather(const Tensor& from, const Tensor& to, std::string_view what) override;
  Event broadcast(const Tensor& x, int root, std::string_view what) override;
  Event barrier(std::string_view what) override;
  void wait(Event event) override;
  void check() override;
  bool fail(const std::string& message) override;
  Traffic traffic() const override;

 private:
  struct Operation {
    const char* kind = "";
    std::string_view what;
    std::uint64_t sent = 0, received = 0;  // payload bytes
    bool host_waits = false;
    bool in_stream = false;  // NCCL has put it there, and `done` is recorded
    // In the communication stream: all before it is over and its inputs are there; it is over.
    cudaEvent_t begun = nullptr, done = nullptr;
  };
  // The backend's stream stood between these two.
  struct Stall {
    cudaEvent_t from = nullptr, to = nullptr;
  };
  struct Stopped {};  // thrown on the watch: there is a verdict

  // ---- on the caller's thread (nccl_collectives.cpp)
  void join(const std::function<void()>& meanwhile);
  Event submit(Operation operation, const NcclCommunicator::Call& call);
  std::uint64_t bytes_from_others(const Tensor& block) const;
  void wait_on_device(cudaEvent_t done);
  void give_up_call(const std::string& problem);
  [[noreturn]] void throw_failure(std::unique_lock<std::mutex>& lock);
  void await_reporter(std::unique_lock<std::mutex>& lock);
  cudaEvent_t take_event();
  void wake() const;

  // ---- on the watch (nccl_watch.cpp)
  void watch();
  bool may_leave();
  void turn();  // hears the others; throws Stopped
  void look();  // at the streams
  static std::string name_of(const Operation& operation);
  void look_at_operations();
  void look_at_stalls();
  void look_at_nccl();
  void rest();
  void leave();
  void await_verdict();
  void after_failure();
  void publish_verdict();
  Standing standing() const { return standing_; }

  CudaBackend& backend_;
  const RankPlace place_;
  const Nccl& nccl_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t ready_ = nullptr;  // in the backend's stream, recorded again for each operation
  std::unique_ptr<Buffer> token_;
  // Shared with the thread that ends it, which NCCL may hold for ever.
  std::shared_ptr<NcclCommunicator> communicator_;
  int wake_fd_ = -1;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Operation> operations_;  // not over yet; the first has the number submitted_ - size + 1
  std::deque<Stall> stalls_;
  std::vector<cudaEvent_t> events_;  // all, and those that are free: only the caller's thread records them
  std::vector<cudaEvent_t> free_events_;
  std::uint64_t submitted_ = 0;
  std::uint64_t device_waits_for_ = 0;  // the backend's stream: for this operation and all before
  std::atomic<bool> failed_{false};
  std::optional<Verdict> failure_;
  std::optional<std::string> fail_request_;
  std::atomic<bool> fail_requested_{false};
  bool leaving_ = false, abandoned_ = false, noticed_ = false, reporter_ended_ = false;
  std::string call_problem_;  // of a call NCCL refused
  Traffic traffic_;

  // The watch's own.
  std::unique_ptr<RankControl> control_;
  Standing standing_;
  std::optional<Clock::time_point> at_work_since_, problem_since_;
  std::string problem_;
  std::vector<pollfd> fds_;

  std::thread watch_;
};

}  // namespace spectrain
