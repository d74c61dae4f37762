#pragma once

#include <span>
#include <string>

#include "train/plot.h"

namespace spectrain {

// One row for each run, in their order: name, optimizer, tokens, final and best validation loss, training
// seconds, tokens/s, and tokens and seconds to `target` (0: the runs' own, if they have one; without any the
// columns are left out). Columns are aligned; with `markdown` the table is one of Markdown.
std::string comparison_table(std::span<const RunCurves> runs, double target = 0, bool markdown = false);

}  // namespace spectrain
