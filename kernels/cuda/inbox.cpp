#include "kernels/cuda/inbox.h"

#include <cstring>

#include "kernels/cuda/cuda_error.h"

namespace spectrain {

CudaBackend::Inbox::Inbox(cudaStream_t compute) : compute_(compute) {
  check_cuda(cudaStreamCreateWithFlags(&copies_, cudaStreamNonBlocking), "making a stream");
  for (Slot& s : slots_) {
    check_cuda(cudaMallocHost(&s.pinned, kBytes), "allocating pinned memory");
    check_cuda(cudaMalloc(&s.device, kBytes), "allocating memory for inputs");
    check_cuda(cudaEventCreateWithFlags(&s.arrived, cudaEventDisableTiming), "making an event");
    check_cuda(cudaEventCreateWithFlags(&s.taken, cudaEventDisableTiming), "making an event");
  }
}

CudaBackend::Inbox::~Inbox() {
  if (copies_) cudaStreamSynchronize(copies_);
  for (Slot& s : slots_) {
    cudaFreeHost(s.pinned);
    cudaFree(s.device);
    if (s.arrived) cudaEventDestroy(s.arrived);
    if (s.taken) cudaEventDestroy(s.taken);
  }
  if (copies_) cudaStreamDestroy(copies_);
}

void CudaBackend::Inbox::send(void* to, const void* from, std::size_t bytes) {
  Slot& s = slots_[next_];
  next_ = (next_ + 1) % kSlots;
  // An event that was never recorded counts as passed.
  if (cudaEventQuery(s.taken) == cudaErrorNotReady) {
    cudaGetLastError();
    check_cuda(cudaEventSynchronize(s.taken), "waiting for a place in the input queue");
  }
  std::memcpy(s.pinned, from, bytes);
  check_cuda(cudaMemcpyAsync(s.device, s.pinned, bytes, cudaMemcpyHostToDevice, copies_), "copying an input");
  check_cuda(cudaEventRecord(s.arrived, copies_), "recording an event");
  check_cuda(cudaStreamWaitEvent(compute_, s.arrived, 0), "ordering two streams");
  check_cuda(cudaMemcpyAsync(to, s.device, bytes, cudaMemcpyDeviceToDevice, compute_), "copying an input");
  check_cuda(cudaEventRecord(s.taken, compute_), "recording an event");
}

}  // namespace spectrain
