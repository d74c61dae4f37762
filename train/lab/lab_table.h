#pragma once

#include <string>
#include <vector>

#include "train/lab/record.h"

namespace spectrain::lab {

// "9 claims: 5 hold, 2 hold in part, 1 does not hold here, 1 was not run.", and how many experiments were run
// in their quick form.
std::string verdict_counts(const std::vector<ExperimentRecord>& records);

// "0.34 %", or with what fails: "12 % (fails)".
std::string measured_text(const Check& check);

// What was measured for a claim, in a few lines: "<check>: <measured>" of at most four checks, those that
// fail first, and how many more there are; why it was not run, where it was not.
std::vector<std::string> measured_lines(const ExperimentRecord& record, const ClaimResult& claim);

// Claim, what was measured, verdict, for a terminal: a few lines per claim.
std::string terminal_table(const std::vector<ExperimentRecord>& records);

// The same as a table of Markdown, a row per claim, with the counts below it.
std::string markdown_table(const std::vector<ExperimentRecord>& records);

}  // namespace spectrain::lab
