#pragma once

#include <string>

#include "train/lab/experiments.h"

namespace spectrain::lab {

// Experiments whose outcome is known, for tests of the laboratory around them.
//
//   dice         four claims, of which one holds, one holds in part and two do not; options of every kind;
//   numbers
//                with and without expectation, one of them NaN; pictures with gaps, on logarithmic axes and
//                without a point; words that are markup elsewhere
//   needs-data   RequestError unless the folder <data>/numbers is there
//   interrupted  somebody presses Ctrl-C while it runs; it ends as if nothing had happened
//   broken       fails with an Error
//   unjudged     leaves a claim without a check
const ExperimentList& fake_experiments();

// How often `dice` was run in this process.
int dice_thrown();

// A file for one of them: "experiment: <name>\nid: <id>\n" and what follows.
std::string file_of(const std::string& name, const std::string& id, const std::string& rest = "");

}  // namespace spectrain::lab
