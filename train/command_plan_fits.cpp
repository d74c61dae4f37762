#include "train/command_plan_fits.h"

#include "fmt/format.h"
#include "train/command_plan_tables.h"

namespace spectrain {
namespace {

double needed(RunConfig config, const BackendSizes& device, std::int64_t micro_batch) {
  config.batch.micro_batch = micro_batch;
  return static_cast<double>(memory_table(config, device).total()) + kGpuReserve;
}

}  // namespace

std::int64_t largest_micro_batch(const RunConfig& config, const BackendSizes& device, double memory) {
  const std::int64_t sequences = config.sequences_per_step();
  std::int64_t best = 0;
  // Memory grows with the batch, so the first that does not fit ends the search.
  for (std::int64_t n = 1; n <= sequences; ++n) {
    if (sequences % n != 0) continue;
    if (needed(config, device, n) > memory) break;
    best = n;
  }
  return best;
}

std::string fits_report(const RunConfig& config, const BackendSizes& device,
                        const std::vector<double>& memories) {
  std::string text = fmt::format(
      "\nWhat fits on one GPU, {:.0f} GB kept free for the driver, libraries and scratch\n"
      "  {:>12}  {:>17}  {:>12}\n",
      kGpuReserve / 1e9, "GPU", "batch.micro_batch", "needed");
  for (const double memory : memories) {
    const std::int64_t n = largest_micro_batch(config, device, memory);
    text += fmt::format("  {:>9.0f} GB  ", memory / 1e9);
    if (n == 0)
      text += fmt::format("{:>17}  {:>9.1f} GB\n", "not even 1", needed(config, device, 1) / 1e9);
    else
      text += fmt::format("{:>17}  {:>9.1f} GB\n", n, needed(config, device, n) / 1e9);
  }
  return text;
}

}  // namespace spectrain
