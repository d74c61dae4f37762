#pragma once

#include <nccl.h>

// NCCL's functions, which the plug-in is not linked to (library.h).

namespace spectrain {

struct Nccl {
  decltype(&ncclGetUniqueId) unique_id;
  decltype(&ncclCommInitRankConfig) init;
  decltype(&ncclCommFinalize) finalize;
  decltype(&ncclCommDestroy) destroy;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclGetErrorString) error_string;
  decltype(&ncclGetLastError) last_error;
  decltype(&ncclAllReduce) all_reduce;
  decltype(&ncclReduceScatter) reduce_scatter;
  decltype(&ncclReduce) reduce;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclBroadcast) broadcast;
};

// Opened once for the process. Throws Error "several GPUs work together through NVIDIA's NCCL, but NCCL
// (libnccl.so.2) is neither ..." where it is missing.
const Nccl& open_nccl();

}  // namespace spectrain
