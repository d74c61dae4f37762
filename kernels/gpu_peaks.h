#pragma once

#include <optional>
#include <string_view>

namespace spectrain {

// What a GPU could do at most, by its data sheet: the 100 % of "share of the peak".
struct GpuPeaks {
  double bf16_flops;        // per second, dense matrix products of bf16 with float32 sums
  double memory_bandwidth;  // bytes per second
};

// By the name the CUDA runtime gives: "NVIDIA H100 80GB HBM3". Nothing for a model that is not in the table,
// for a laptop's version of one that is, and for a part of a GPU (MIG), whose peak is its own.
std::optional<GpuPeaks> gpu_peaks(std::string_view name);

}  // namespace spectrain
