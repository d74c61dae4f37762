#include <fmt/format.h>

#include <cstdlib>

#include "train/agreement.h"
#include "train/commands.h"
#include "train/config.h"
#include "train/failure.h"
#include "train/gpu_ranks.h"
#include "train/launch.h"
#include "train/launch_gpus.h"
#include "train/launch_ranks.h"
#include "train/session.h"
#include "train/trainer.h"

namespace spectrain {
namespace {

void check_request(const TrainRequest& request, const Launch& launch) {
  if (request.speedrun && request.resume)
    throw RequestError(
        "--speedrun times a run in one piece, from its first step; leave --resume out, or --speedrun");
  if (launch.launcher != Launcher::none && request.gpus > 0 && request.gpus != launch.local_ranks)
    throw RequestError(fmt::format(
        "--gpus is {}, but {} has started {} rank{} on this host; leave --gpus out, that number "
        "counts",
        request.gpus, name_of(launch.launcher), launch.local_ranks, launch.local_ranks == 1 ? "" : "s"));
  if (launch.launcher != Launcher::none && request.ranks > 0 && request.ranks != launch.ranks)
    throw RequestError(
        fmt::format("--ranks is {}, but {} has started {} ranks; leave --ranks out, its number counts",
                    request.ranks, name_of(launch.launcher), launch.ranks));
}

// The configuration as text, or why it is refused.
struct Reading {
  double timeout = DistributedSection().timeout;  // seconds
  ComputeSection compute;                         // of this rank
  std::string text;
  bool refused = false;
};

Reading read_configuration(const TrainRequest& request, const Launch& launch) {
  Reading reading;
  try {
    const RunConfig config = with_resolved_model(load_config(request.config, request.overrides));
    reading.timeout = config.distributed.timeout;
    check_gpus_wanted(request.gpus, config.compute.device);
    reading.compute = share_of_rank(config, launch.ranks).compute;
    reading.compute.threads = threads_share(config.compute.threads, launch);
    if (request.gpus > 0) reading.compute.device = Device::cuda;
    reading.text = to_yaml(config);
  } catch (const RequestError& e) {
    reading.text = e.what();
    reading.refused = true;
  }
  return reading;
}

// What all ranks know to be wrong with the request, so that each can end with 2 and the first says it.
void check_together(Collectives& collectives, const Reading& reading) {
  const int other = first_with_another_text(collectives, reading.text);
  if (other > 0)
    throw RequestError(fmt::format(
        "the configuration that rank {} reads is not that of rank 0; give all ranks the same file and the "
        "same --set",
        other));
  if (reading.refused) throw RequestError(reading.text);
}

}  // namespace

int run_train(const TrainRequest& request) {
  const Launch launch = launch_of_this_process();
  try {
    check_request(request, launch);
  } catch (const RequestError&) {
    if (!launch.is_first()) return 2;  // all ranks know, the first says it
    throw;
  }
  if (request.ranks > 1 && launch.launcher == Launcher::none) return launch_ranks(request);
  if (request.gpus > 1 && launch.launcher == Launcher::none) return launch_gpus(request);

  if (!prints_to_terminal(launch)) setenv("TERM", "dumb", 1);  // for Progress: plain lines
  const Reading reading = read_configuration(request, launch);
  if (reading.refused && launch.ranks == 1) throw RequestError(reading.text);
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Collectives> collectives = make_collectives(launch, reading.timeout);
  try {
    check_together(*collectives, reading);
  } catch (const RequestError& e) {
    // Said before the goodbye of the collectives, for a launcher ends all ranks with the first that ends.
    if (launch.is_first()) fmt::print(stderr, "spectrain: {}\n", failure_sentence(e));
    return exit_code_of(e);
  }
  // Lives until the failure below is known: messages on their way use its memory.
  std::unique_ptr<Trainer> trainer;
  try {
    backend = make_rank_backend(reading.compute, launch);
    join_backends(collectives, *backend, launch, reading.timeout);
    trainer = std::make_unique<Trainer>(request, *collectives, launch, *backend);
    trainer->run();
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
