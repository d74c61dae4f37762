#pragma once

#include "train/commands.h"

namespace spectrain {

// `spectrain train --gpus N` with N > 1 and without a launcher: this process starts N copies of the program
// on this host, one for each GPU, with the same arguments, and waits for them (local_ranks.h). Returns the
// exit code of the run: 0 when all ranks ended with 0, 2 when a rank found the request wrong, else 1.
//
// - What is wrong with the request, and GPUs that are not there, are found before a rank starts, so it is
// said
//   once: RequestError.
// - Interrupts are handled as with mpirun (launch_ranks.h), and no rank outlives this process.
// - Where no rank said anything, Error says which rank ended and how.
int launch_gpus(const TrainRequest& request);

}  // namespace spectrain
