#pragma once

#include <functional>
#include <memory>

#include "kernels/backend.h"
#include "kernels/collectives.h"

namespace spectrain {

// NcclCollectives (nccl_collectives.h) over a CudaBackend, which must outlive them.
std::unique_ptr<Collectives> make_nccl_collectives(Backend& backend, const RankPlace& place,
                                                   const std::function<void()>& meanwhile);

}  // namespace spectrain
