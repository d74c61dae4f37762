#pragma once

#include <cstdint>

// What tests may know of the emulated cuBLASLt.

namespace spectrain::emulator {

struct CublasLtCounts {
  std::int64_t asked = 0;      // for algorithms (the heuristic)
  std::int64_t refused = 0;    // of them without an answer
  std::int64_t products = 0;   // started
  std::int64_t eight_bit = 0;  // of them those of eight-bit floats
  std::int64_t fast_sums = 0;  // of these those with fast accumulation
  int last_algorithm = -1;     // of the last product: its place in the heuristic's answer
};
CublasLtCounts& cublaslt_counts();
void refuse_eight_bits(bool refuse);  // as a library would on a device that has no such products

}  // namespace spectrain::emulator
