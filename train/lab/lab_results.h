#pragma once

#include <string>
#include <vector>

#include "train/lab/record.h"

namespace spectrain::lab {

// What a laboratory leaves in its directory, each file whole or not at all:
//   experiments/<id>.json  the record of one experiment, with its curves: what the other files are made of
//   lab.jsonl              an object per claim (record.h)
//   lab.md                 the table of claims and verdicts as Markdown
//   lab.html               everything, as one page

// The records in the order of their ids; none where there is no such directory. Throws Error for a damaged
// one.
std::vector<ExperimentRecord> read_records(const std::string& directory);

// Puts a record in the place of the experiment's earlier one, and lab.jsonl and lab.md up to date; makes the
// directory when it is not there. A record that says "not run" never takes the place of a measurement: false
// is returned, and nothing written.
bool keep_record(const ExperimentRecord& record, const std::string& directory);

// lab.jsonl, lab.md and lab.html of the records. Throws RequestError when there are none.
void write_results(const std::vector<ExperimentRecord>& records, const std::string& directory,
                   const std::string& version);

}  // namespace spectrain::lab
