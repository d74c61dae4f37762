#pragma once

#include <cstdint>

namespace spectrain {

// Which keys a query sees beyond causality. The query at position t of its sequence sees the keys s with
//   max(t - window + 1, document_start[row of t]) <= s <= t.
struct AttentionMask {
  std::int64_t window = 0;  // 0: unlimited
  // Device memory [batch, context] or null: the position in the sequence of the first token of each token's
  // document. Does not decrease along a sequence.
  const std::int32_t* document_start = nullptr;

  bool causal_only() const { return window == 0 && document_start == nullptr; }
};

}  // namespace spectrain
