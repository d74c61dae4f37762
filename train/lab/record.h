#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "train/lab/experiment.h"

namespace spectrain::lab {

// What is kept of one run of an experiment. Measured, or not run: then `claims` have no checks and `not_run`
// says why.
struct ExperimentRecord {
  std::string id, experiment, title, file;  // "e4", "routing", ..., the file it was read from
  std::string not_run;                      // a sentence; empty: it ran
  Outcome outcome;
  std::vector<std::string> changed;  // options that are not as by default
  bool quick = false;
  std::uint64_t seed = 1;
  double seconds = 0;
  std::string version;   // of the program, with its commit
  std::string device;    // what it ran on
  std::string finished;  // "2026-01-31T12:00:00Z"
};

inline constexpr std::string_view kNotRun = "not run";
// "holds", "holds in part", "does not hold here", or "not run".
std::string_view verdict_words(const ExperimentRecord& record, const ClaimResult& claim);

// One line of JSON, and back. Throws Error naming `path` when the text is not such a record.
std::string to_text(const ExperimentRecord& record);
ExperimentRecord record_of(const std::string& text, const std::string& path);

// One object per claim, a line each: id, experiment, claim, source, sentence, refuted_by, remark, verdict,
// not_run, checks [{statement, measured, holds}], measurements [{name, value, spread, seeds, expected,
// expected_from, unit}], notes, options, quick, seed, seconds, version, device, finished. The measurements
// are those of the whole experiment. A number that is none is "nan", "inf" or "-inf"; without an expectation
// `expected` is null.
std::string claim_lines(const ExperimentRecord& record);

}  // namespace spectrain::lab
