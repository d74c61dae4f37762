#pragma once

#include <string>

#include "kernels/backend.h"
#include "train/config.h"

namespace spectrain {

// What `spectrain plan` derives from a configuration, from shapes alone: counts, steps, batches with their
// reasons, the groups of parameters, the memory of every kind, and what still lacks before it can be trained.
std::string plan_report(const RunConfig& config, const BackendSizes& backend);

// Bytes a training session and its optimizer will allocate on `backend`, by kind.
struct MemoryTable {
  std::size_t weights = 0, prepared = 0, gradients = 0, optimizer_state = 0, optimizer_workspace = 0,
              activations = 0, workspace = 0, validation = 0;
  std::size_t total() const {
    return weights + prepared + gradients + optimizer_state + optimizer_workspace + activations + workspace +
           validation;
  }
};
MemoryTable memory_table(const RunConfig& config, const BackendSizes& backend);

}  // namespace spectrain
