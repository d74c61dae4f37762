#pragma once

#include <string>
#include <vector>

#include "train/compare_results.h"
#include "train/compare_statistics.h"

namespace spectrain {

// The numbers of a comparison's summary as texts, made once: results.csv, the page and the terminal show the
// same.

struct SummaryField {
  std::string key;    // "final_loss": the column of results.csv
  std::string value;  // "3.2787", what results.csv holds; empty: not known
  std::string
      shown;  // what people read: the value itself, or rounded with its unit ("1.64M"); "-": not known
};

// One row per variant in the order of the ranking, every row with the same keys.
using SummaryRow = std::vector<SummaryField>;
std::vector<SummaryRow> summary_rows(const ComparedRuns& results, const ComparisonStatistics& all);
const SummaryField& field(const SummaryRow& row, const std::string& key);  // std::logic_error: no such key

// "lr 0.02, weight_decay 0.1"; "as configured" for a variant without a grid.
std::string point_text(const GridPoint& point);
std::string loss_text(double loss);               // four decimals; "-" when not finite
std::string p_text(double p);                     // 0.0123, 1.2e-05
std::string flops_text(double flops);             // "1.23 PFLOP"
std::string estimate_text(const Estimate& loss);  // "3.2787 ± 0.0004", without the second where there is none

// Who is best, how sure that is, and against whom: one to three sentences.
std::string headline(const ComparedRuns& results, const ComparisonStatistics& all);

// ± and its kin as characters every terminal has.
std::string ascii(std::string text);

}  // namespace spectrain
