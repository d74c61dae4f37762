#pragma once

#include <cstdint>

namespace spectrain {

// How ranks share an optimizer's work: distributed_optimizer.h.
enum class Sharding : std::uint8_t { owners, replicas };

struct DistributedOptions {
  Sharding sharding = Sharding::owners;
  std::int64_t bucket_bytes = 40 << 20;  // of gradients that are sent together, at least
};

}  // namespace spectrain
