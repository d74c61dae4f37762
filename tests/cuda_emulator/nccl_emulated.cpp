#include <nccl.h>

#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/collectives.h"
#include "kernels/cuda/nccl_library.h"
#include "kernels/cuda/nccl_make.h"
#include "kernels/sockets.h"
#include "tests/cuda_emulator/emulator.h"

// NCCL over TCP connections between the processes, as little helpful as NCCL is: joining and every third
// operation take a while during which all calls but two are forbidden; an operation begins when its stream
// has come to it; one whose peers are gone stays in its stream until the communicator is given up, and a peer
// that only hangs is no error at all.

using spectrain::Collectives;
using spectrain::DType;
using spectrain::Tensor;

namespace {

constexpr double kPatience = 1e6;  // seconds: NCCL has no timeout
constexpr int kQuestions = 3;      // until an operation is in its stream

// Rank 0's, between ncclGetUniqueId and the moment it joins.
int listener = -1;

DType dtype_of(ncclDataType_t type) {
  switch (type) {
    case ncclInt32:
      return DType::i32;
    case ncclFloat16:
      return DType::f16;
    case ncclFloat32:
      return DType::f32;
    case ncclFloat64:
      return DType::f64;
    case ncclBfloat16:
      return DType::bf16;
  }
  return DType::f32;
}

// `count` elements at `data`; null: none.
struct Place {
  void* data = nullptr;
  std::size_t count = 0;
  bool operator==(const Place&) const = default;
};

// What an operation reads and writes, and how it is asked for; `from` and `to` are the same where it works in
// place.
struct Operation {
  Place from, to;
  ncclDataType_t type;
  std::function<spectrain::Event(Collectives&, const Tensor& from, const Tensor& to)> call;
};

// Memory of the host's that stands for a place of the device's.
class Copy {
 public:
  Copy(const Place& place, ncclDataType_t type)
      : device_(place.data),
        dtype_(dtype_of(type)),
        shape_{static_cast<std::int64_t>(place.count)},
        bytes_(place.data ? place.count * size_of(dtype_) : 0) {
    if (!bytes_.empty()) std::memcpy(bytes_.data(), device_, bytes_.size());
  }
  Tensor view() { return {device_ ? bytes_.data() : nullptr, dtype_, shape_}; }
  void give_back() const {
    if (!bytes_.empty()) std::memcpy(device_, bytes_.data(), bytes_.size());
  }

 private:
  void* device_;
  DType dtype_;
  spectrain::Shape shape_;
  std::vector<std::byte> bytes_;
};

}  // namespace

struct EmulatedNccl {
  using Work = std::function<spectrain::Event(Collectives&)>;

  int ranks = 1;
  const std::thread::id owner = std::this_thread::get_id();
  std::mutex mutex;
  std::condition_variable changed;
  bool joined = false, aborted = false, finalizing = false;
  ncclResult_t error = ncclSuccess;
  std::deque<Work> queue;
  std::size_t done = 0, begun = 0;
  std::unique_ptr<Collectives> tcp;
  std::thread worker;
  // What an operation still has to do before it is in its stream.
  std::function<void()> pending;
  int questions = 0;
  std::size_t calls = 0;

  void work(spectrain::RankPlace place) {
    try {
      auto made = make_tcp_collectives(place);
      std::unique_lock lock(mutex);
      tcp = std::move(made);
      joined = true;
      for (;;) {
        changed.wait(lock, [this] { return !queue.empty() || finalizing || aborted; });
        if (aborted || queue.empty()) return;
        const Work next = std::move(queue.front());
        queue.pop_front();
        lock.unlock();
        tcp->wait(next(*tcp));
        lock.lock();
        ++done;
        changed.notify_all();
      }
    } catch (const std::exception&) {
      const std::lock_guard lock(mutex);
      error = ncclRemoteError;
    }
  }

  // In the stream's order, on the thread that waits for it.
  void run(const Operation& o) {
    std::unique_lock lock(mutex);
    if (aborted) return;
    const auto from = std::make_shared<Copy>(o.from, o.type);
    const auto to = o.to == o.from ? from : std::make_shared<Copy>(o.to, o.type);
    queue.push_back([from, to, call = o.call](Collectives& c) { return call(c, from->view(), to->view()); });
    const std::size_t mine = ++begun;
    changed.notify_all();
    changed.wait(lock, [&] { return aborted || done >= mine; });
    if (done >= mine) to->give_back();
  }

  ncclResult_t put(cudaStream_t stream, Operation operation) {
    const std::lock_guard lock(mutex);
    if (!joined || pending || aborted || std::this_thread::get_id() != owner) return ncclInvalidUsage;
    if (error != ncclSuccess) return error;
    auto enqueue = [this, stream, o = std::move(operation)] {
      spectrain::emulator::enqueue(stream, [this, o] { run(o); });
    };
    if (++calls % 3 != 0) {
      enqueue();
      return ncclSuccess;
    }
    pending = std::move(enqueue);
    questions = kQuestions;
    return ncclInProgress;
  }

  ncclResult_t state() {
    const std::lock_guard lock(mutex);
    if (error != ncclSuccess) return error;
    if (!joined) return ncclInProgress;
    if (!pending) return ncclSuccess;
    if (std::this_thread::get_id() != owner || --questions > 0) return ncclInProgress;
    std::exchange(pending, nullptr)();
    return ncclSuccess;
  }
};

ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  spectrain::Socket socket = spectrain::listen_at("127.0.0.1", 0);
  const int port = spectrain::near_end(socket).port;
  std::memset(id, 0, sizeof *id);
  std::memcpy(id->internal, &port, sizeof port);
  listener = socket.release();
  return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t* communicator, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0 || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  spectrain::RankPlace place{rank, ranks, "127.0.0.1", 0, kPatience};
  std::memcpy(&place.port, id.internal, sizeof place.port);
  if (rank == 0) place.listener = std::exchange(listener, -1);
  *communicator = new EmulatedNccl;
  (*communicator)->ranks = ranks;
  (*communicator)->worker = std::thread([c = *communicator, place] { c->work(place); });
  return ncclInProgress;
}

ncclResult_t ncclCommFinalize(ncclComm_t c) {
  const std::lock_guard lock(c->mutex);
  c->finalizing = true;
  c->changed.notify_all();
  return ncclSuccess;
}
ncclResult_t ncclCommDestroy(ncclComm_t c) {
  c->worker.join();
  delete c;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t c) {
  // Its thread may be anywhere; it and what it uses stay to the end of the process.
  const std::lock_guard lock(c->mutex);
  c->aborted = true;
  if (c->worker.joinable()) c->worker.detach();
  c->changed.notify_all();
  return ncclSuccess;
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t* error) {
  *error = c->state();
  return ncclSuccess;
}
const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclRemoteError:
      return "remote process exited or there was a network error";
    case ncclInvalidUsage:
      return "invalid usage";
    case ncclInvalidArgument:
      return "invalid argument";
    default:
      return "no error";
  }
}
const char* ncclGetLastError(ncclComm_t) { return ""; }

ncclResult_t ncclAllReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t c, cudaStream_t stream) {
  if (from != to || count == 0) return ncclInvalidArgument;  // what is not used here is not made
  const auto how = op == ncclSum ? spectrain::Reduce::sum : spectrain::Reduce::max;
  return c->put(stream,
                {{to, count}, {to, count}, type, [how](Collectives& tcp, const Tensor& x, const Tensor&) {
                   return tcp.all_reduce(x, how, "emulated");
                 }});
}
ncclResult_t ncclReduceScatter(const void* from, void* to, std::size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t c, cudaStream_t stream) {
  if (op != ncclSum || count == 0) return ncclInvalidArgument;
  const std::size_t whole = count * static_cast<std::size_t>(c->ranks);
  return c->put(stream, {{const_cast<void*>(from), whole},
                         {to, count},
                         type,
                         [](Collectives& tcp, const Tensor& all, const Tensor& part) {
                           return tcp.reduce_scatter(all, part, "emulated");
                         }});
}
ncclResult_t ncclReduce(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclRedOp_t op,
                        int root, ncclComm_t c, cudaStream_t stream) {
  if (op != ncclSum || count == 0) return ncclInvalidArgument;
  return c->put(stream, {{const_cast<void*>(from), count},
                         {to, count},
                         type,
                         [root](Collectives& tcp, const Tensor& mine, const Tensor& sum) {
                           return tcp.reduce(mine, sum, root, "emulated");
                         }});
}
ncclResult_t ncclAllGather(const void* from, void* to, std::size_t count, ncclDataType_t type, ncclComm_t c,
                           cudaStream_t stream) {
  if (count == 0) return ncclInvalidArgument;
  const std::size_t whole = count * static_cast<std::size_t>(c->ranks);
  return c->put(stream, {{const_cast<void*>(from), count},
                         {to, whole},
                         type,
                         [](Collectives& tcp, const Tensor& part, const Tensor& all) {
                           return tcp.all_gather(part, all, "emulated");
                         }});
}
ncclResult_t ncclBroadcast(const void* from, void* to, std::size_t count, ncclDataType_t type, int root,
                           ncclComm_t c, cudaStream_t stream) {
  if (from != to || count == 0) return ncclInvalidArgument;
  return c->put(stream,
                {{to, count}, {to, count}, type, [root](Collectives& tcp, const Tensor& x, const Tensor&) {
                   return tcp.broadcast(x, root, "emulated");
                 }});
}

namespace spectrain {

const Nccl& open_nccl() {
  static const Nccl nccl = {ncclGetUniqueId, ncclCommInitRankConfig, ncclCommFinalize,   ncclCommDestroy,
                            ncclCommAbort,   ncclCommGetAsyncError,  ncclGetErrorString, ncclGetLastError,
                            ncclAllReduce,   ncclReduceScatter,      ncclReduce,         ncclAllGather,
                            ncclBroadcast};
  return nccl;
}

std::unique_ptr<Collectives> make_emulated_nccl_collectives(Backend& backend, const RankPlace& place) {
  return make_nccl_collectives(backend, place, {});
}

}  // namespace spectrain
