#pragma once

#include <functional>

#include "cuda_runtime_api.h"

namespace spectrain::emulator {

// Runs `body` once for every thread of every block; returns when all have ended.
void run_grid(dim3 blocks, dim3 threads, std::size_t shared, const std::function<void()>& body);

}  // namespace spectrain::emulator
