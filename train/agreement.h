#pragma once

#include <string>

#include "kernels/collectives.h"

namespace spectrain {

// The lowest rank whose text is not that of rank 0; 0: all are the same. Every rank calls it and hears the
// same. For collectives of host memory.
int first_with_another_text(Collectives& collectives, const std::string& text,
                            const char* what = "checksums of the configuration");

}  // namespace spectrain
