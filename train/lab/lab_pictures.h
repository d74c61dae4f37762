#pragma once

#include <string>

#include "train/lab/experiment.h"
#include "train/picture.h"

namespace spectrain::lab {

// The script that draws a picture of an experiment, a line and symbols per series. Points that are not
// finite, or not above 0 on a logarithmic axis, are left out and break their line. The script is empty when
// no point is left. Throws std::logic_error for a series with x and y of different sizes.
PictureScript script_of(const Picture& picture, const std::string& id);

}  // namespace spectrain::lab
