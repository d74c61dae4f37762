#include <fmt/format.h>

#include <cstdlib>

#include "train/commands.h"
#include "train/config.h"
#include "train/failure.h"
#include "train/launch.h"
#include "train/launch_ranks.h"
#include "train/trainer.h"

namespace spectrain {
namespace {

void check_ranks(const TrainRequest& request, const Launch& launch) {
  if (request.gpus > 0)
    throw RequestError(
        fmt::format("--gpus {}: this version trains on the CPU only; use --ranks {} --device cpu",
                    request.gpus, request.gpus));
  if (launch.launcher != Launcher::none && request.ranks > 0 && request.ranks != launch.ranks)
    throw RequestError(
        fmt::format("--ranks is {}, but {} has started {} ranks; leave --ranks out, its number counts",
                    request.ranks, name_of(launch.launcher), launch.ranks));
}

// Seconds. A configuration that is refused is refused again by Trainer, when the ranks can agree who says it.
double timeout_of(const TrainRequest& request) {
  try {
    return load_config(request.config, request.overrides).distributed.timeout;
  } catch (const RequestError&) {
    return DistributedSection().timeout;
  }
}

}  // namespace

int run_train(const TrainRequest& request) {
  const Launch launch = launch_of_this_process();
  try {
    check_ranks(request, launch);
  } catch (const RequestError&) {
    if (!launch.is_first()) return 2;  // all ranks know, the first says it
    throw;
  }
  if (request.ranks > 1 && launch.launcher == Launcher::none) return launch_ranks(request);

  if (!prints_to_terminal(launch)) setenv("TERM", "dumb", 1);  // for Progress: plain lines
  const std::unique_ptr<Collectives> collectives = make_collectives(launch, timeout_of(request));
  try {
    Trainer(request, *collectives, launch).run();
  } catch (const PeerFailure&) {
    throw;
  } catch (const std::exception& e) {
    // Ends the run on every rank. One of them tells the user; this one keeps its exit code all the same, for
    // mpirun's is that of any rank.
    if (collectives->fail(failure_sentence(e))) throw;
    return exit_code_of(e);
  }
  return 0;
}

}  // namespace spectrain
