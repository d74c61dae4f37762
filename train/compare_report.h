#pragma once

#include <string>

#include "train/compare_results.h"

namespace spectrain {

// Writes what a comparison found into `directory` (which is there already), each file whole or not at all:
//   report.html    one page that needs nothing else: no script, no style, no picture from elsewhere
//   results.csv    one row per variant, in the order of the ranking: the page's summary table
//   results.jsonl  one object per run, with its validation curve
// Pictures are drawn by gnuplot; without it the page says so and has none. Throws Error when a file cannot be
// written, and RequestError for results without a single run.
void write_report(const ComparedRuns& results, const std::string& directory);

// The ranking as a table with aligned columns, for a terminal; with `markdown` a table of Markdown. One line
// per variant, the best first, and below it the headline of the report. RequestError without a single run.
std::string summary_table(const ComparedRuns& results, bool markdown = false);

}  // namespace spectrain
