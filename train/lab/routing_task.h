#pragma once

#include <cstdint>
#include <string>

#include "train/lab/experiment.h"
#include "train/lab/network.h"

// E4 and E5: the routing task. Domains of inputs and of outputs share one linear network, encoder - hidden -
// decoder; of all pairs of an input and an output domain some are trained, the others held out. All trained
// pairs ask for the same map, so the simple solution is a shared one, and it also answers the pairs that were
// never trained.
//
//   y = D H E x,  x [domains items] one-hot in domain and item,  loss = mean squared error of each trained
//   pair, summed

namespace spectrain::lab {

struct Task {
  std::int64_t hidden = 64, trained = 4;
  double gain = 0.2;   // of the first, orthogonal matrices
  bool joint = true;   // one encoder and one decoder matrix for all domains, or one for each
  bool middle = true;  // the shared hidden matrix
};

struct Errors {
  double trained = 0, held_out = 0;  // mean squared error
};

// A way to train, as E4's table has it.
struct Way {
  std::string name;
  std::string rule;
  Settings settings;
  bool joint = true;
  bool decays = true;  // lr to zero, linearly
  std::int64_t steps = 0;
};
Way descent_way(std::int64_t steps);
Way spectral_way(std::int64_t steps, double lr, bool joint);
Way muon_way(std::int64_t steps, double lr, bool joint);

struct Trained {
  Errors first, last;
  double least_held_out = 0;
  std::int64_t map_rank = 0, hidden_rank = 0;
  Series trained{"trained pairs", {}, {}}, held_out{"held-out pairs", {}, {}};
};
// way.joint decides for the task's.
Trained train(Backend& backend, const Task& task, const Way& way, std::uint64_t seed);

}  // namespace spectrain::lab
