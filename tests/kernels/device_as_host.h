#pragma once

#include <memory>

#include "kernels/backend.h"

namespace spectrain {

// A backend whose tensors are in host memory, over one whose tensors are on a device: every call carries its
// tensors there and back. So the same test cases run on every backend. Slow, and for tests only.
std::unique_ptr<Backend> make_device_as_host(std::unique_ptr<Backend> device);

}  // namespace spectrain
