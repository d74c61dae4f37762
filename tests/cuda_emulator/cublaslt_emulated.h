#pragma once

#include <cstdint>

// What tests may know of the emulated cuBLASLt.

namespace spectrain::emulator {

struct CublasLtCounts {
  std::int64_t asked = 0;     // for algorithms (the heuristic)
  std::int64_t refused = 0;   // of them without an answer
  std::int64_t products = 0;  // started
  int last_algorithm = -1;    // of the last product: its place in the heuristic's answer
};
CublasLtCounts& cublaslt_counts();

}  // namespace spectrain::emulator
