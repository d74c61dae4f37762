#include "kernels/cuda/cuda_backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/convolution.h"
#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/factors.h"
#include "kernels/cuda/inbox.h"
#include "kernels/cuda/products.h"

// NVTX is a header that does nothing unless a profiler has loaded its library.
#if __has_include(<nvtx3/nvToolsExt.h>) && !defined(SPECTRAIN_EMULATED_CUDA)
#include <nvtx3/nvToolsExt.h>
#define SPECTRAIN_NVTX
#endif

namespace spectrain {

namespace {

constexpr std::size_t kAnswerBytes = 64;

}  // namespace

CudaBackend::CudaBackend(const CudaOptions& options) : options_(options) {
  check_cuda(cudaSetDevice(options.device), "choosing a device");
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, options.device), "asking for the device's properties");
  multiprocessors_ = properties.multiProcessorCount;
  sizes_ = CudaSizes(multiprocessors_);
  capability_ = 10 * properties.major + properties.minor;
  if (options.most_capability > 0) capability_ = std::min(capability_, options.most_capability);
  shared_limit_ = properties.sharedMemPerBlockOptin;
  total_memory_ = properties.totalGlobalMem;
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream");
  check_cuda(cudaMallocHost(reinterpret_cast<void**>(&answer_), kAnswerBytes), "allocating pinned memory");
  inbox_ = std::make_unique<Inbox>(stream_);
  description_ = fmt::format("{}, compute capability {}.{}, {} SMs, {:.0f} GiB", properties.name,
                             properties.major, properties.minor, multiprocessors_,
                             static_cast<double>(total_memory_) / (1024.0 * 1024 * 1024));
}

CudaBackend::~CudaBackend() {
  // Nothing here may throw, and a device that failed frees its memory with the process.
  cudaStreamSynchronize(stream_);
  factors_.reset();
  convolutions_.reset();
  attention_.reset();
  products_.reset();
  inbox_.reset();
  for (void* memory : scratch_) cudaFree(memory);
  cudaFreeHost(answer_);
  cudaStreamDestroy(stream_);
}

std::string CudaBackend::description() const { return description_; }

std::vector<std::string> CudaBackend::notes() {
  std::vector<std::string> all;
  const auto take = [&all](std::vector<std::string>& from) {
    for (std::string& note : std::exchange(from, {})) all.push_back(std::move(note));
  };
  if (attention_) take(attention_->notes);
  if (convolutions_) take(convolutions_->notes);
  if (factors_) take(factors_->notes);
  take(fp8_notes_);
  take(notes_);
  return all;
}

#ifdef SPECTRAIN_NVTX
void CudaBackend::begin_range(const char* name) { nvtxRangePushA(name); }
void CudaBackend::end_range() { nvtxRangePop(); }
#else
void CudaBackend::begin_range(const char*) {}
void CudaBackend::end_range() {}
#endif

unsigned CudaBackend::blocks_for(std::int64_t work, int per_multiprocessor) const {
  std::int64_t blocks = std::min<std::int64_t>(work, std::int64_t{per_multiprocessor} * multiprocessors_);
  if (options_.max_blocks > 0) blocks = std::min<std::int64_t>(blocks, options_.max_blocks);
  return static_cast<unsigned>(std::max<std::int64_t>(blocks, 1));
}

void* CudaBackend::scratch(std::size_t bytes) {
  if (bytes <= scratch_bytes_) return scratch_.empty() ? nullptr : scratch_.back();
  if (recording_)
    throw std::logic_error(
        "recorded work asks for more scratch memory than it did when it ran for the first time");
  // The one before stays: recorded work has its address. Twice as large each time, they add up to little.
  bytes = std::max({(bytes + 255) / 256 * 256, 2 * scratch_bytes_, std::size_t{4} << 20});
  void* memory = nullptr;
  if (cudaMalloc(&memory, bytes) != cudaSuccess) {
    cudaGetLastError();
    throw Error(
        fmt::format("no room for {:.1f} MB of scratch memory on cuda: make the batch or the model smaller",
                    static_cast<double>(bytes) / 1e6));
  }
  scratch_.push_back(memory);
  scratch_bytes_ = bytes;
  allocated_ += bytes;
  return memory;
}

void CudaBackend::wait() {
  ++waits_;
  check_cuda(cudaStreamSynchronize(stream_), "waiting for the GPU");
}

void CudaBackend::wait_for(cudaEvent_t event) {
  ++waits_;
  check_cuda(cudaEventSynchronize(event), "waiting for the GPU");
}

Products& CudaBackend::products() {
  if (!products_) products_ = make_products(*this);
  return *products_;
}

}  // namespace spectrain
