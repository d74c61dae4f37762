#include <fmt/format.h>

#include <cstdlib>

#include "train/commands.h"
#include "train/failure.h"
#include "train/launch.h"
#include "train/launch_ranks.h"
#include "train/trainer.h"

namespace spectrain {
namespace {

constexpr double kTimeout = 60;  // seconds

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

// One rank's failure ends all. Throws what this rank shall say, or a silent PeerFailure.
[[noreturn]] void fail_everywhere(Collectives& collectives, const std::exception& e) {
  const std::string sentence = failure_sentence(e);
  if (!collectives.fail(sentence)) throw PeerFailure(sentence, false);
  throw;  // the exception that is being handled, with its exit code
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
  const std::unique_ptr<Collectives> collectives = make_collectives(launch, kTimeout);
  try {
    Trainer(request, *collectives, launch).run();
  } catch (const PeerFailure&) {
    throw;
  } catch (const std::exception& e) {
    fail_everywhere(*collectives, e);
  }
  return 0;
}

}  // namespace spectrain
