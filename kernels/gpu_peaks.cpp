#include "kernels/gpu_peaks.h"

namespace spectrain {
namespace {

struct Model {
  std::string_view name;  // all of it, without "NVIDIA " and "GeForce "
  double tflops;          // data sheets of the H100 and later print twice that, "with sparsity"
  double gigabytes;       // per second
};

constexpr Model kModels[] = {
    // "NVIDIA A100 Tensor Core GPU" data sheet, June 2021; the 40 GB models' bandwidth from the 2020 edition
    {"A100-SXM4-40GB", 312, 1555},
    {"A100-SXM-40GB", 312, 1555},
    {"A100-PCIE-40GB", 312, 1555},
    {"A100-SXM4-80GB", 312, 2039},
    {"A100-SXM-80GB", 312, 2039},
    {"A100 80GB PCIe", 312, 1935},
    {"A100-PCIE-80GB", 312, 1935},
    // "NVIDIA H100 Tensor Core GPU" data sheet (SXM, NVL) and its 2022 edition (PCIe); architecture white
    // paper,
    // table 2: 989.4 and 756
    {"H100 80GB HBM3", 989.4, 3350},
    {"H100 SXM5 80GB", 989.4, 3350},
    {"H100 PCIe", 756, 2000},
    {"H100 NVL", 835.5, 3900},
    // "NVIDIA H200 Tensor Core GPU" data sheet
    {"H200", 989.4, 4800},
    {"H200 NVL", 835.5, 4800},
    // "NVIDIA DGX B200" data sheet: an eighth of 36 PFLOP/s with sparsity (half of it dense) and of 64 TB/s
    {"B200", 2250, 8000},
    // "NVIDIA Ada GPU architecture" white paper, appendix A: bf16 with float32 accumulation
    {"RTX 4090", 165.2, 1008},
    // "NVIDIA RTX Blackwell GPU architecture" white paper, appendix A: likewise
    {"RTX 5090", 209.5, 1792},
    // "NVIDIA L40S" data sheet
    {"L40S", 362.05, 864},
};

}  // namespace

std::optional<GpuPeaks> gpu_peaks(std::string_view name) {
  for (const std::string_view maker : {"NVIDIA ", "GeForce "})
    if (name.starts_with(maker)) name.remove_prefix(maker.size());
  // The whole name, for "RTX 4090 Laptop GPU", "RTX 4090 D" and "A100-SXM4-40GB MIG 1g.5gb" are others.
  for (const Model& model : kModels)
    if (model.name == name) return GpuPeaks{model.tflops * 1e12, model.gigabytes * 1e9};
  return std::nullopt;
}

}  // namespace spectrain
