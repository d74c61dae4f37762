#pragma once

#include "train/compare_results.h"
#include "train/compare_state.h"

namespace spectrain {

// What the report is made of: the runs of a comparison that are over, read from their directories. Throws
// RequestError naming a file that is not what a run writes.
ComparedRuns collect_runs(CompareState& state);

}  // namespace spectrain
