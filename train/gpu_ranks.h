#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/collectives.h"
#include "train/config.h"
#include "train/launch.h"

// Which device a rank computes on, and how ranks on GPUs work together.

namespace spectrain {

// Throws RequestError where GPUs are asked for by number (0: they are not) and the configuration names the
// CPU.
void check_gpus_wanted(int gpus, Device device);

// The GPU of a rank that sees so many, the CUDA runtime's number: its local rank's. A launcher may have given
// each rank one of its own by CUDA_VISIBLE_DEVICES; each then sees that one alone. -1: there are more ranks
// on this host than GPUs.
int gpu_of(const Launch& launch, int visible, const Environment& environment);

// The backend of a rank. compute.device automatic: GPUs where each rank of this host has one, else the CPU.
// Throws RequestError when this build or machine does not have what is asked for.
std::unique_ptr<Backend> make_rank_backend(const ComputeSection& compute, const Launch& launch);

// Puts collectives for what is in the memory of the backends in place of those `collectives` through which
// the ranks met: NCCL's where all are GPUs. Throws RequestError where some ranks have GPUs and others not,
// Error, and PeerFailure; then the first collectives are still there to fail() with.
void join_backends(std::unique_ptr<Collectives>& collectives, Backend& backend, const Launch& launch,
                   double timeout);

}  // namespace spectrain
