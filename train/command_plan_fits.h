#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "train/config.h"

namespace spectrain {

// Kept free on a GPU for the driver's context, the libraries' own memory and kernels' scratch: 1 GB.
constexpr double kGpuReserve = 1e9;

// The largest batch.micro_batch, a divisor of a step's sequences, with which a training session fits into
// `memory` bytes beside kGpuReserve; 0 when not even one sequence does.
std::int64_t largest_micro_batch(const RunConfig& config, const BackendSizes& device, double memory);

// The table of it for GPUs of these sizes, in bytes.
std::string fits_report(const RunConfig& config, const BackendSizes& device,
                        const std::vector<double>& memories);

}  // namespace spectrain
