#include <algorithm>
#include <string>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/inbox.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/words.h"

// CMake 3.25 drops the request for C++20 where it does not know nvcc's, and says nothing.
static_assert(__cplusplus >= 202002L, "kernels/cuda is C++20");

namespace spectrain {

class CudaBuffer final : public Buffer {
 public:
  CudaBuffer(CudaBackend& owner, void* data, std::size_t bytes) : owner_(owner) {
    data_ = data;
    bytes_ = bytes;
    owner_.allocated_ += bytes;
  }
  ~CudaBuffer() override {
    cudaFree(data_);  // waits for the kernels that may still use it
    owner_.allocated_ -= bytes_;
  }
  CudaBuffer(const CudaBuffer&) = delete;
  CudaBuffer& operator=(const CudaBuffer&) = delete;

 private:
  CudaBackend& owner_;
};

namespace {

constexpr int kThreads = 256;

class CudaGraph final : public Replay {
 public:
  CudaGraph(cudaGraphExec_t graph, cudaStream_t stream) : graph_(graph), stream_(stream) {}
  ~CudaGraph() override { cudaGraphExecDestroy(graph_); }
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  void run() override { check_cuda(cudaGraphLaunch(graph_, stream_), "starting a graph"); }

 private:
  cudaGraphExec_t graph_;
  cudaStream_t stream_;
};

// The host sleeps until the event, for it has nothing to do: the device is a step ahead.
class PinnedRead final : public LateRead {
 public:
  PinnedRead(CudaBackend& backend, std::size_t bytes) : backend_(backend), bytes_(bytes) {
    check_cuda(cudaMallocHost(&pinned_, bytes), "allocating pinned memory");
    check_cuda(cudaEventCreateWithFlags(&here_, cudaEventDisableTiming | cudaEventBlockingSync),
               "making an event");
  }
  ~PinnedRead() override {
    if (here_) cudaEventSynchronize(here_);  // the copy may still be on its way
    if (here_) cudaEventDestroy(here_);
    cudaFreeHost(pinned_);
  }
  PinnedRead(const PinnedRead&) = delete;
  PinnedRead& operator=(const PinnedRead&) = delete;

  void ask(const Tensor& x) override {
    if (x.bytes() != bytes_) throw std::logic_error("LateRead::ask: a tensor of another size");
    check_cuda(cudaMemcpyAsync(pinned_, x.data, bytes_, cudaMemcpyDeviceToHost, backend_.stream()),
               "copying from the GPU");
    check_cuda(cudaEventRecord(here_, backend_.stream()), "recording an event");
  }
  const void* wait() override {
    backend_.wait_for(here_);
    return pinned_;
  }

 private:
  CudaBackend& backend_;
  std::size_t bytes_;
  void* pinned_ = nullptr;
  cudaEvent_t here_ = nullptr;
};

template <class T>
__global__ void fill_kernel(T* x, T value, std::int64_t n) {
  SPECTRAIN_GRID_LOOP(i, n) x[i] = value;
}

// Four elements to a thread, where the addresses allow it (`packs` of them, else 0), the rest one by one.
// Floor: one reading and one writing; each optimizer step makes the bf16 weights with it.
template <class From, class To>
__global__ void convert_kernel(const From* x, To* y, std::int64_t packs, std::int64_t n) {
  SPECTRAIN_GRID_LOOP(i, packs) {
    const Pack<From, 4> from = load_some<4>(x + 4 * i);
    Pack<To, 4> to;
    for (int k = 0; k < 4; ++k) to.v[k] = narrow<To>(widen(from.v[k]));
    store_some(y + 4 * i, to);
  }
  SPECTRAIN_GRID_LOOP(i, n - 4 * packs) y[4 * packs + i] = narrow<To>(widen(x[4 * packs + i]));
}

template <class T>
bool packs_of_four(const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % (sizeof(T) < 4 ? 4 * sizeof(T) : 16) == 0;
}

template <class T>
void fill_with(CudaBackend& b, const Tensor& x, T value) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  launch(b.stream(), {b.blocks_for((n + kThreads - 1) / kThreads), kThreads}, fill_kernel<T>, x.as<T>(),
         value, n);
}

std::string size_text(std::size_t bytes) {
  const auto tenths = [](double x) {
    const auto n = static_cast<long long>(x * 10 + 0.5);
    return std::to_string(n / 10) + "." + std::to_string(n % 10);
  };
  const auto b = static_cast<double>(bytes);
  if (bytes >= 1000000000) return tenths(b / 1e9) + " GB";
  if (bytes >= 1000000) return tenths(b / 1e6) + " MB";
  return std::to_string(bytes) + " bytes";
}

// What makes this kind of memory smaller.
const char* way_out(std::string_view name) {
  if (name == "activations") return "a smaller batch.micro_batch or compute.recompute: true makes it smaller";
  if (name == "workspace") return "a smaller compute.logits_budget_mib makes it smaller";
  if (name == "optimizer state" || name == "weights" || name == "gradients")
    return "a smaller model or more GPUs make it smaller";
  return "a smaller batch.micro_batch or a smaller model leaves more room";
}

}  // namespace

std::unique_ptr<Buffer> CudaBackend::allocate(std::size_t bytes, std::string_view name) {
  void* data = nullptr;
  if (bytes > total_memory_ || cudaMalloc(&data, bytes == 0 ? 1 : bytes) != cudaSuccess) {
    cudaGetLastError();
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    throw Error("no room for " + size_text(bytes) + " of " + std::string(name) + " on cuda (" +
                size_text(allocated_) + " in use, " + size_text(free) + " of " + size_text(total) +
                " free): " + way_out(name));
  }
  return std::make_unique<CudaBuffer>(*this, data, bytes);
}

void CudaBackend::fill(const Tensor& x, double value) {
  switch (x.dtype) {
    case DType::f64:
      return fill_with(*this, x, value);
    case DType::f32:
      return fill_with(*this, x, static_cast<float>(value));
    case DType::bf16:
      return fill_with(*this, x, bf16(static_cast<float>(value)));
    case DType::f16:
      return fill_with(*this, x, f16(static_cast<float>(value)));
    case DType::i32:
      return fill_with(*this, x, static_cast<std::int32_t>(value));
  }
}

void CudaBackend::copy(const Tensor& from, const Tensor& to) {
  require(from.numel() == to.numel(), "copy", "the tensors have different numbers of elements");
  const std::int64_t n = to.numel();
  if (n == 0 || from.data == to.data) return;
  if (from.dtype == to.dtype)
    return check_cuda(cudaMemcpyAsync(to.data, from.data, to.bytes(), cudaMemcpyDeviceToDevice, stream_),
                      "copy");
  with_float(from, "copy", [&](auto* x) {
    with_float(to, "copy", [&](auto* y) {
      const std::int64_t packs = packs_of_four(x) && packs_of_four(y) ? n / 4 : 0;
      launch(stream_, {blocks_for((std::max(packs, n - 4 * packs) + kThreads - 1) / kThreads), kThreads},
             convert_kernel<Element<decltype(x)>, Element<decltype(y)>>, x, y, packs, n);
    });
  });
}

void CudaBackend::copy_from_host(const Tensor& to, const void* from) {
  if (to.bytes() == 0) return;
  if (to.bytes() <= Inbox::kBytes) return inbox_->send(to.data, from, to.bytes());
  check_cuda(cudaMemcpyAsync(to.data, from, to.bytes(), cudaMemcpyHostToDevice, stream_),
             "copying to the GPU");
  wait();  // the caller may change `from` when this returns
}

void CudaBackend::copy_to_host(void* to, const Tensor& from) {
  if (from.bytes() == 0) return;
  check_cuda(cudaMemcpyAsync(to, from.data, from.bytes(), cudaMemcpyDeviceToHost, stream_),
             "copying from the GPU");
  wait();
}

std::unique_ptr<LateRead> CudaBackend::late_read(std::size_t bytes) {
  return std::make_unique<PinnedRead>(*this, bytes);
}

std::unique_ptr<Replay> CudaBackend::record(const std::function<void()>& work) {
  check_cuda(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal),
             "beginning to record a graph");
  cudaGraph_t graph = nullptr;
  const auto end = [&] {
    recording_ = false;
    return cudaStreamEndCapture(stream_, &graph);
  };
  recording_ = true;
  try {
    try {
      work();
    } catch (...) {
      end();
      throw;
    }
    check_cuda(end(), "recording a graph");
    cudaGraphExec_t executable = nullptr;
    check_cuda(cudaGraphInstantiate(&executable, graph, 0), "making a graph ready to run");
    cudaGraphDestroy(graph);
    return std::make_unique<CudaGraph>(executable, stream_);
  } catch (const Error& e) {
    // A library that cannot be recorded, say: work can still be done one kernel after the other.
    notes_.push_back(
        std::string("Work could not be recorded as a CUDA graph and is started kernel by kernel: ") +
        e.what());
  } catch (...) {
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  if (graph) cudaGraphDestroy(graph);
  cudaGetLastError();
  return nullptr;
}

}  // namespace spectrain
