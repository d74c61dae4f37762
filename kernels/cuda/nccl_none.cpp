#include "kernels/cuda/nccl_make.h"
#include "kernels/error.h"

// In place of nccl_*.cpp where the build found no header of NCCL.

namespace spectrain {

std::unique_ptr<Collectives> make_nccl_collectives(Backend&, const RankPlace&, const std::function<void()>&) {
  throw Error(
      "several GPUs work together through NVIDIA's NCCL, but this build was made without it (nccl.h was not "
      "found); build again with its header, or use one GPU");
}

}  // namespace spectrain
