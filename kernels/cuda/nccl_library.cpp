#include "kernels/cuda/nccl_library.h"

#include "kernels/cuda/library.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

template <class F>
void look_up(const Library& library, F& function, const char* name) {
  function = library.function<F>(name);
}

Nccl load() {
  const Library library = Library::open("NCCL", "libnccl.so.2");
  if (!library) throw Error("several GPUs work together through NVIDIA's NCCL, but " + library.why_not());
  Nccl nccl{};
  look_up(library, nccl.unique_id, "ncclGetUniqueId");
  look_up(library, nccl.init, "ncclCommInitRankConfig");
  look_up(library, nccl.finalize, "ncclCommFinalize");
  look_up(library, nccl.destroy, "ncclCommDestroy");
  look_up(library, nccl.abort, "ncclCommAbort");
  look_up(library, nccl.async_error, "ncclCommGetAsyncError");
  look_up(library, nccl.error_string, "ncclGetErrorString");
  look_up(library, nccl.last_error, "ncclGetLastError");
  look_up(library, nccl.all_reduce, "ncclAllReduce");
  look_up(library, nccl.reduce_scatter, "ncclReduceScatter");
  look_up(library, nccl.reduce, "ncclReduce");
  look_up(library, nccl.all_gather, "ncclAllGather");
  look_up(library, nccl.broadcast, "ncclBroadcast");
  return nccl;
}

}  // namespace

const Nccl& open_nccl() {
  static const Nccl nccl = load();
  return nccl;
}

}  // namespace spectrain
