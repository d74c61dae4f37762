#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "tests/cuda_emulator/blocks.h"
#include "tests/cuda_emulator/emulator.h"

// Memory, streams, events and graphs of the emulated device.

using Work = std::function<void()>;

struct EmulatedGraph {
  std::vector<Work> work;
};

struct EmulatedStream {
  std::deque<Work> queue;
  EmulatedGraph* capture = nullptr;  // where work goes instead while a graph is made
  bool origin = false;               // the stream on which the capture began
};

struct EmulatedEvent {
  EmulatedStream* stream = nullptr;
  std::shared_ptr<std::atomic<bool>> done;  // of the newest record; asked for by other threads, too
  EmulatedGraph* capture = nullptr;         // recorded inside a capture
};

namespace {

constexpr std::size_t kDeviceMemory = std::size_t{2} << 30;

struct Device {
  std::set<EmulatedStream*> streams;
  std::map<const std::byte*, std::size_t> pinned, device;
  std::size_t memory = kDeviceMemory, used = 0;
  std::map<const void*, std::size_t> shared;  // dynamic memory that kernels may have
  spectrain::emulator::Counts counts;
  cudaError_t last = cudaSuccess;
  bool capturing = false;
};
Device& device() {
  static Device d;
  return d;
}

void count_wait() {
  ++device().counts.synchronizations;
  device().counts.not_waited_for = 0;
}

cudaError_t result(cudaError_t e) {
  if (e != cudaSuccess) device().last = e;
  return e;
}

bool inside(const std::map<const std::byte*, std::size_t>& ranges, const void* p) {
  const auto* at = static_cast<const std::byte*>(p);
  auto it = ranges.upper_bound(at);
  if (it == ranges.begin()) return false;
  --it;
  return at < it->first + it->second;
}

void put(cudaStream_t stream, Work work) {
  if (stream->capture)
    stream->capture->work.push_back(std::move(work));
  else
    stream->queue.push_back(std::move(work));
}

void step(EmulatedStream* stream) {
  Work work = std::move(stream->queue.front());
  stream->queue.pop_front();
  work();
}
void drain(EmulatedStream* stream) {
  while (!stream->queue.empty()) step(stream);
}
void drain_until(EmulatedStream* stream, const std::shared_ptr<std::atomic<bool>>& done) {
  while (!*done && !stream->queue.empty()) step(stream);
}
void drain_all() {
  for (EmulatedStream* s : device().streams) drain(s);
}

// What a device may not do while it is being captured.
bool forbidden() { return device().capturing; }

}  // namespace

const char* cudaGetErrorName(cudaError_t e) {
  switch (e) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorStreamCaptureUnsupported:
      return "cudaErrorStreamCaptureUnsupported";
    case cudaErrorUnknown:
      return "cudaErrorUnknown";
  }
  return "";
}
const char* cudaGetErrorString(cudaError_t e) { return cudaGetErrorName(e); }
cudaError_t cudaGetLastError() { return std::exchange(device().last, cudaSuccess); }

cudaError_t cudaDriverGetVersion(int* v) { return *v = 13000, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* v) { return *v = 13000, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int d) { return result(d == 0 ? cudaSuccess : cudaErrorInvalidValue); }
cudaError_t cudaGetDevice(int* d) { return *d = 0, cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {};
  std::strcpy(p->name, "emulated GPU");
  p->totalGlobalMem = device().memory;
  p->major = 9;
  p->multiProcessorCount = 4;
  p->sharedMemPerBlockOptin = 232448 - 1024;
  p->l2CacheSize = 50 << 20;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  cudaDeviceProp p;
  cudaGetDeviceProperties(&p, 0);
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrL2CacheSize:
      *value = p.l2CacheSize;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  *free = device().memory - device().used;
  *total = device().memory;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  count_wait();
  drain_all();
  return cudaSuccess;
}

namespace {
#if defined(__SANITIZE_ADDRESS__)
void* take(std::size_t bytes) {
  void* data = nullptr;
  return posix_memalign(&data, 256, bytes == 0 ? 1 : bytes) == 0 ? data : nullptr;
}
void give_back(void* data, std::size_t) { std::free(data); }
#else
// At the end of pages of its own, with a page behind that nobody may touch: what reads or writes past the
// end, or after the memory was freed, ends the program.
constexpr std::size_t kPage = 4096;
std::size_t pages_for(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }
std::size_t rounded(std::size_t bytes) { return (std::max<std::size_t>(bytes, 1) + 255) / 256 * 256; }
void* take(std::size_t bytes) {
  const std::size_t pages = pages_for(rounded(bytes));
  void* base = mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  mprotect(static_cast<std::byte*>(base) + pages, kPage, PROT_NONE);
  return static_cast<std::byte*>(base) + pages - rounded(bytes);
}
void give_back(void* data, std::size_t bytes) {
  const std::size_t pages = pages_for(rounded(bytes));
  munmap(static_cast<std::byte*>(data) + rounded(bytes) - pages, pages + kPage);
}
#endif

cudaError_t allocate(std::map<const std::byte*, std::size_t>& ranges, void** data, std::size_t bytes) {
  *data = take(bytes);
  if (*data == nullptr) return result(cudaErrorMemoryAllocation);
  std::memset(*data, 0xff, bytes);  // NaN in every float
  ranges[static_cast<std::byte*>(*data)] = bytes;
  return cudaSuccess;
}
std::size_t release(std::map<const std::byte*, std::size_t>& ranges, void* data) {
  const auto it = ranges.find(static_cast<std::byte*>(data));
  if (it == ranges.end()) return 0;
  const std::size_t bytes = it->second;
  ranges.erase(it);
  give_back(data, bytes);
  return bytes;
}
}  // namespace

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  if (bytes > device().memory - device().used) return result(cudaErrorMemoryAllocation);
  ++device().counts.allocations;
  device().used += bytes;
  return allocate(device().device, data, bytes);
}
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  drain_all();
  device().used -= release(device().device, data);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** data, std::size_t bytes) { return allocate(device().pinned, data, bytes); }
cudaError_t cudaFreeHost(void* data) {
  drain_all();
  release(device().pinned, data);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  count_wait();
  drain_all();
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  if (bytes == 0) return cudaSuccess;
  if (kind == cudaMemcpyHostToDevice && !inside(device().pinned, from)) {
    // From memory that is not pinned the driver takes its own copy before it returns.
    std::vector<std::byte> copy(static_cast<const std::byte*>(from),
                                static_cast<const std::byte*>(from) + bytes);
    put(stream, [to, copy = std::move(copy)] { std::memcpy(to, copy.data(), copy.size()); });
  } else {
    put(stream, [=] { std::memcpy(to, from, bytes); });
  }
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  put(stream, [=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new EmulatedStream;
  device().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* lowest, int* highest) {
  *lowest = 0;
  *highest = -5;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  drain(stream);
  device().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  count_wait();
  drain(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return stream->queue.empty() ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->capture && !stream->capture) stream->capture = event->capture;  // joins the capture
  if (stream->capture || !event->done) return cudaSuccess;  // a graph keeps the order of its work
  put(stream, [from = event->stream, done = event->done] { drain_until(from, done); });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  event->stream = stream;
  event->capture = stream->capture;
  if (stream->capture) {
    event->done = nullptr;
    return cudaSuccess;
  }
  event->done = std::make_shared<std::atomic<bool>>(false);
  put(stream, [done = event->done] { *done = true; });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (forbidden()) return result(cudaErrorStreamCaptureUnsupported);
  count_wait();
  if (event->done) drain_until(event->stream, event->done);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return !event->done || *event->done ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 1;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (device().capturing) return result(cudaErrorStreamCaptureUnsupported);
  stream->capture = new EmulatedGraph;
  stream->origin = true;
  device().capturing = true;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream->capture || !stream->origin) return result(cudaErrorInvalidValue);
  *graph = stream->capture;
  stream->origin = false;
  for (EmulatedStream* s : device().streams)
    if (s->capture == *graph) s->capture = nullptr;
  device().capturing = false;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new EmulatedGraph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  ++device().counts.graph_launches;
  ++device().counts.not_waited_for;
  put(stream, [work = executable->work] {
    for (const Work& w : work) w();
  });
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return cudaSuccess;
}

namespace spectrain::emulator {

void allow_shared(const void* kernel, int bytes) {
  device().shared[kernel] = static_cast<std::size_t>(bytes);
}

void launch(cudaStream_t stream, dim3 blocks, dim3 threads, std::size_t shared, const void* kernel,
            std::function<void()> body) {
  const unsigned count = threads.x * threads.y * threads.z;
  if (count == 0 || count > 1024 || blocks.x == 0 || blocks.y == 0 || blocks.z == 0 || blocks.y > 65535 ||
      blocks.z > 65535 || shared > 232448 - 1024 || (shared > 40960 && device().shared[kernel] < shared)) {
    device().last = cudaErrorInvalidConfiguration;
    return;
  }
  ++device().counts.launches;
  ++device().counts.not_waited_for;
  put(stream, [=, body = std::move(body)] { run_grid(blocks, threads, shared, body); });
}

void enqueue(cudaStream_t stream, std::function<void()> work) { put(stream, std::move(work)); }

Counts counts() { return device().counts; }
void set_memory(std::size_t bytes) { device().memory = bytes == 0 ? kDeviceMemory : bytes; }

}  // namespace spectrain::emulator
