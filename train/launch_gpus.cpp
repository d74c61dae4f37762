#include "train/launch_gpus.h"

#include <fmt/format.h>
#include <sys/wait.h>

#include <csignal>
#include <cstring>

#include "kernels/cuda_plugin.h"
#include "kernels/error.h"
#include "train/child_process.h"
#include "train/config.h"
#include "train/gpu_ranks.h"
#include "train/local_ranks.h"
#include "train/session.h"

namespace spectrain {
namespace {

// For the others of a rank that has ended: they know within seconds, once all have met.
constexpr double kGrace = 10;

void check_request(const TrainRequest& request) {
  const RunConfig config = with_resolved_model(load_config(request.config, request.overrides));
  check_gpus_wanted(request.gpus, config.compute.device);
  const CudaListing listing = list_cuda_devices();
  if (!listing.reason.empty())
    throw RequestError(fmt::format("--gpus {}: {}; use --ranks {} --device cpu", request.gpus, listing.reason,
                                   request.gpus));
  const int count = static_cast<int>(listing.devices.size());
  if (request.gpus > count)
    throw RequestError(fmt::format("--gpus is {}, but this process sees {} GPU{}; --gpus {} uses all of them",
                                   request.gpus, count, count == 1 ? "" : "s", count));
  for (int i = 0; i < request.gpus; ++i) {
    const CudaDevice& device = listing.devices[static_cast<std::size_t>(i)];
    if (!device.problem.empty())
      throw RequestError(fmt::format("--gpus {}: GPU {}, {}, cannot be used: {}", request.gpus, i,
                                     device.name, device.problem));
  }
  share_of_rank(config, request.gpus);
}

// No rank said why the run ended.
[[noreturn]] void throw_end(const LocalRanksEnd& end) {
  if (end.interrupts > 1) throw Error("ended at once by the second interrupt; saved checkpoints are intact");
  if (end.interrupts == 1) throw Error("interrupted before the ranks were training; nothing was saved");
  const LocalRankEnd& first = *end.first;
  if (WIFSIGNALED(first.status))
    throw Error(fmt::format("rank {} ended by signal {} ({}); saved checkpoints are intact", first.rank,
                            WTERMSIG(first.status), strsignal(WTERMSIG(first.status))));
  throw Error(fmt::format("rank {} ended with exit code {} without a message; saved checkpoints are intact",
                          first.rank, WEXITSTATUS(first.status)));
}

}  // namespace

int launch_gpus(const TrainRequest& request) {
  check_request(request);
  std::vector<std::string> arguments = {own_path()};
  arguments.insert(arguments.end(), request.arguments.begin(), request.arguments.end());
  const LocalRanksEnd end = run_local_ranks(arguments, request.gpus, kGrace, [](std::string_view bytes) {
    std::fwrite(bytes.data(), 1, bytes.size(), stderr);
  });
  if (end.code != 0 && !end.reported) throw_end(end);
  return end.code;
}

}  // namespace spectrain
