#pragma once

#include <string>

namespace spectrain {

struct CompareRequest {
  std::string plan;          // path of a YAML file
  bool dry_run = false;      // lists the runs, writes and starts nothing
  bool report_only = false;  // the report of what is there
};
// Trains what a plan asks for and is not there, and writes the report. Returns the exit code; throws as the
// functions of commands.h.
int run_compare(const CompareRequest& request);

}  // namespace spectrain
