#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/cuda_backend.h"

namespace spectrain {

// Pinned memory through which inputs go to the device, in its own stream, while the device computes. Slots
// take turns: the host fills one while others are on their way.
struct CudaBackend::Inbox {
  static constexpr int kSlots = 16;
  static constexpr std::size_t kBytes = CudaSizes::kInboxBytes / kSlots;  // larger ones go directly

  explicit Inbox(cudaStream_t compute);
  ~Inbox();
  Inbox(const Inbox&) = delete;
  Inbox& operator=(const Inbox&) = delete;

  // Waits only when all slots are still on their way.
  void send(void* to, const void* from, std::size_t bytes);

 private:
  struct Slot {
    void* pinned = nullptr;
    void* device = nullptr;
    cudaEvent_t arrived = nullptr;  // in device memory
    cudaEvent_t taken = nullptr;    // by the compute stream: the slot is free
  };
  cudaStream_t compute_, copies_ = nullptr;
  Slot slots_[kSlots];
  int next_ = 0;
};

}  // namespace spectrain
