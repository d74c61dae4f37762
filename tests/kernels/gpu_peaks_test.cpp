#include "kernels/gpu_peaks.h"

#include <gtest/gtest.h>

namespace spectrain {
namespace {

TEST(GpuPeaks, KnowsModelsByTheRuntimesNames) {
  const auto h100 = gpu_peaks("NVIDIA H100 80GB HBM3");
  ASSERT_TRUE(h100);
  EXPECT_DOUBLE_EQ(h100->bf16_flops, 989.4e12);
  EXPECT_DOUBLE_EQ(h100->memory_bandwidth, 3.35e12);
  // The same chip with fewer multiprocessors, lower clocks or other memory is another model.
  EXPECT_LT(gpu_peaks("NVIDIA H100 PCIe")->bf16_flops, h100->bf16_flops);
  EXPECT_LT(gpu_peaks("NVIDIA H100 NVL")->bf16_flops, h100->bf16_flops);
  EXPECT_GT(gpu_peaks("NVIDIA H200")->memory_bandwidth, h100->memory_bandwidth);
  EXPECT_LT(gpu_peaks("NVIDIA A100-SXM4-40GB")->memory_bandwidth,
            gpu_peaks("NVIDIA A100-SXM4-80GB")->memory_bandwidth);
  for (const char* name :
       {"A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB", "NVIDIA A100 80GB PCIe", "NVIDIA B200", "NVIDIA H200 NVL",
        "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 5090", "NVIDIA L40S"})
    EXPECT_TRUE(gpu_peaks(name)) << name;
}

// Operations of a multiprocessor's tensor cores in one cycle (NVIDIA's architecture white papers), times
// multiprocessors and boost clock: what the data sheets' numbers are made of, and half of those with
// sparsity.
TEST(GpuPeaks, AreDense) {
  const auto near = [](const char* name, double per_cycle, double multiprocessors, double megahertz) {
    const double computed = per_cycle * multiprocessors * megahertz * 1e6;
    EXPECT_NEAR(gpu_peaks(name)->bf16_flops / computed, 1, 0.015) << name;
  };
  near("NVIDIA A100-SXM4-80GB", 2048, 108, 1410);
  near("NVIDIA H100 80GB HBM3", 4096, 132, 1830);
  near("NVIDIA GeForce RTX 4090", 512, 128, 2520);
  near("NVIDIA GeForce RTX 5090", 512, 170, 2407);
  near("NVIDIA L40S", 1024, 142, 2520);
}

TEST(GpuPeaks, OfOthersAreNotGuessed) {
  for (const char* name : {"", "NVIDIA", "NVIDIA H100", "Test GPU", "NVIDIA GeForce RTX 4090 Laptop GPU",
                           "NVIDIA GeForce RTX 4090 D", "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
                           "NVIDIA H100 80GB HBM3 MIG 3g.40gb", "Tesla V100-SXM2-16GB", "NVIDIA B200X"})
    EXPECT_FALSE(gpu_peaks(name)) << name;
}

}  // namespace
}  // namespace spectrain
