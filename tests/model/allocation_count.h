#pragma once

#include <cstdint>

namespace spectrain {

// Calls of operator new in this process so far (this test binary replaces it).
std::int64_t allocation_count();

}  // namespace spectrain
