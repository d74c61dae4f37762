#pragma once

#include "kernels/cpu/cpu_backend.h"

namespace spectrain {

struct CpuBackend::Matrices {};

}  // namespace spectrain
