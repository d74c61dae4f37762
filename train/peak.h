#pragma once

#include "kernels/backend.h"

namespace spectrain {

// Floating-point operations per second that this machine reaches in a large matrix product of this dtype now:
// the best of several products of 1024 x 1024 x 1024, or of 128 x 128 x 128 where those would take more than
// a second. Takes about a tenth of a second on a laptop. What progress lines and benchmarks mean by "peak".
double measure_peak(Backend& backend, DType compute);

// Bytes per second that this machine reaches now in copying 64 MiB of float32 (of a GPU 256 MiB): the best of
// several copies, bytes read and bytes written together.
double measure_bandwidth(Backend& backend);

}  // namespace spectrain
