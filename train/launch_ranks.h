#pragma once

#include "train/commands.h"

namespace spectrain {

// `spectrain train --ranks N` without a launcher: Open MPI's mpirun starts N copies of this program with the
// same arguments, and this process waits for them. Returns the exit code of the run: 0 when all ranks ended
// with 0, 2 when a rank found the request wrong, else 1.
//
// - What is wrong with the request or the installation is found before a rank starts, so it is said once:
//   RequestError for the configuration, Error where mpirun or the MPI plug-in is missing.
// - The first SIGINT, SIGTERM or SIGHUP goes to every rank as SIGUSR1, which mpirun hands on as it is: they
//   finish the step, save and end. (mpirun's own answer to SIGINT and SIGTERM is to kill the ranks a second
//   later.) Another one ends mpirun and with it the ranks at once.
// - No rank outlives this process or mpirun.
// - mpirun's boxes about ended ranks are left out. Where no rank said anything, Error says which rank ended
//   and how.
int launch_ranks(const TrainRequest& request);

}  // namespace spectrain
