#pragma once

#include "optim/option.h"
#include "train/lab/dense.h"

namespace spectrain::lab {

// What an experiment takes for Muon's update. The claims are about U V^T; the others show what becomes of
// them when it is only nearly so, and when it is not at all.
enum class Update : std::uint8_t { polar, newton_schulz, gradient };

void describe_update(OptionVisitor& v, Update& update);  // the option "update"
Matrix updated(Update update, const Matrix& g);          // Newton-Schulz: Keller Jordan's five steps

}  // namespace spectrain::lab
