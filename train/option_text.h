#pragma once

#include <string>

#include "optim/option.h"

namespace spectrain {

// The value a field holds, as YAML on one line: what reads back as the same value.
std::string text_of(const Field& field);

}  // namespace spectrain
