#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/backend.h"
#include "kernels/collectives.h"
#include "kernels/cuda/options.h"

// The CUDA backend's own sources, compiled for the processor: its kernels run thread by thread, its streams,
// events and graphs do what a GPU's do (include/cuda_runtime.h says how). What is not NVIDIA's hardware or
// one of its libraries is tested by this on every machine: indices, barriers, sums, the order of copies.

namespace spectrain::emulator {

enum class Order { ascending, descending, shuffled };
void set_order(
    Order order);  // in which the threads of a block run between barriers; also the blocks of a grid

struct Counts {
  std::int64_t launches = 0;  // kernels put into streams one by one
  std::int64_t graph_launches = 0;
  std::int64_t synchronizations = 0;  // times the host waited for the device
  std::int64_t not_waited_for = 0;    // kernels and graphs put into streams since the host last waited
  std::int64_t allocations = 0;
};
Counts counts();
void set_memory(std::size_t bytes);  // of the device; 0: as at the start

}  // namespace spectrain::emulator

namespace spectrain {

// On the emulated device; memory it allocates may be read by the host after synchronize().
std::unique_ptr<Backend> make_emulated_cuda_backend(const CudaOptions& options = {});

// NcclCollectives over such a backend; NCCL itself is replaced by TCP connections between the processes
// (nccl_emulated.cpp).
std::unique_ptr<Collectives> make_emulated_nccl_collectives(Backend& backend, const RankPlace& place);

}  // namespace spectrain
