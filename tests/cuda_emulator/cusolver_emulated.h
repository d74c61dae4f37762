#pragma once

#include <cstddef>
#include <cstdint>

// What tests may know of the emulated cuSOLVER, and how they make it behave.

namespace spectrain::emulator {

struct CusolverState {
  // How often each was put into a stream.
  std::int64_t eigh = 0, eigh_batches = 0, reflections = 0, svd = 0;
  std::int64_t met_nan = 0;       // matrices with NaN or infinity in them that it was given
  bool has_batches = true;        // as if of a version with XsyevBatched
  std::size_t batch_bytes = 256;  // of work memory XsyevBatched wants for each matrix
  std::int32_t next_info = 0;     // what the next factorisation says: more than 0, it did not converge
};
CusolverState& cusolver_state();

}  // namespace spectrain::emulator
