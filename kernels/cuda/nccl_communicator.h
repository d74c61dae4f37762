#pragma once

#include <functional>
#include <mutex>
#include <string>

#include "kernels/cuda/nccl_library.h"

namespace spectrain {

// One communicator of NCCL, non-blocking: only such a one may be given up while it hangs. NCCL wants one call
// at a time, so every call is made under a lock.
class NcclCommunicator {
 public:
  // Called again and again while something is waited for; throws to give up.
  using Meanwhile = std::function<void()>;
  using Call = std::function<ncclResult_t(ncclComm_t)>;

  explicit NcclCommunicator(const Nccl& nccl) : nccl_(nccl) {}
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  const Nccl& nccl() const { return nccl_; }

  // What rank 0 gives to all others, bytes. Throws Error.
  static std::string make_word(const Nccl& nccl);
  // On the device that is current. Throws Error when NCCL refuses, or after `timeout` seconds.
  void join(const std::string& word, int rank, int ranks, double timeout, const Meanwhile& meanwhile);

  // Makes the call and returns when its work is in the stream: NCCL may need a while for that, the first time
  // for connections. Throws Error when NCCL refuses, or when abort() was called.
  void call(const Call& call, const Meanwhile& meanwhile);
  // What went wrong on NCCL's own threads, in words; empty: nothing. Never waits for another call.
  std::string problem();

  // Ends what is at work, on any thread. Calls afterwards throw.
  void abort();
  // After all ranks have finished their work; where NCCL takes longer than so many seconds it is given up.
  void finish(double seconds);

 private:
  // Until NCCL is done with what it began. `lock` is let go in between.
  void settle(std::unique_lock<std::mutex>& lock, ncclResult_t result, double timeout,
              const Meanwhile& meanwhile);
  std::string text_of(ncclResult_t result) const;

  const Nccl& nccl_;
  std::mutex mutex_;
  ncclComm_t communicator_ = nullptr;
};

}  // namespace spectrain
