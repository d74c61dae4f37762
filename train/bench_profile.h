#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "model/work.h"
#include "optim/distributed_optimizer.h"
#include "train/session.h"

namespace spectrain {

// Where the time of a training step goes, and how much of it is needed.
struct StepProfile {
  MachineRates rates;            // measured: large products of the compute dtype, copies of memory
  MachineRates f32_rates;        // the same with products of f32
  std::vector<TimedWork> model;  // one by one, those that take longest first
  std::vector<TimedWork> update;
};

// One step of the batch that is set, kernel by kernel, with the device waited for in between. peak: FLOP/s of
// products (measure_peak).
StepProfile profile_step(Session& session, DistributedOptimizer& optimizer, double peak,
                         const NowSeconds& now);

// A table: time, calls, share of the step, the least work of each kind, the time that takes at the measured
// rates ("floor"), and the ratio of the two.
std::string table_of(const StepProfile& profile);
// {"bandwidth_bytes_per_second": ..., "f32_flops_per_second": ..., "kernels": [{"name", "calls", "seconds",
// "flops", "bytes", "floor_seconds"}, ...]}
nlohmann::json json_of(const StepProfile& profile);

}  // namespace spectrain
