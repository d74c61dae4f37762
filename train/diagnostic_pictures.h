#pragma once

#include <string>
#include <utility>
#include <vector>

#include "train/compare_pictures.h"

namespace spectrain {

// What the runs of a comparison measured beside the loss (diagnostics_record.h), ready to be shown. A variant
// is shown by the first run of its best settings that did not diverge; deciles are means over all of these.

struct VariantDiagnostics {
  std::string name;
  bool baseline = false;
  std::vector<const MetricsLine*> lines;  // with groups or spectra, in their order
  std::vector<double> decile_loss;        // of the final validations, by decile; empty: not measured
};
// Of the variants that measured anything, in the order of the ranking. Points into `results`.
std::vector<VariantDiagnostics> variant_diagnostics(const ComparedRuns& results,
                                                    const ComparisonStatistics& all);

// The newest measurement of a matrix that is not zero; null: there is none.
const SpectrumMeasurement* last_spectrum(const VariantDiagnostics& v, const std::string& matrix,
                                         const std::string& of);
// Names over all variants, each once, in the order of their first measurement.
std::vector<std::string> measured_matrices(const std::vector<VariantDiagnostics>& all);
std::vector<std::string> measured_groups(const std::vector<VariantDiagnostics>& all);

enum class RankKind : std::uint8_t { effective, stable };
// Mean over the matrices of a line of rank / min(rows, cols); NaN: none was measured, or all are zero.
double mean_rank(const DiagnosticsRecord& record, const std::string& of, RankKind kind);
// At the last line that has it.
double last_mean_rank(const VariantDiagnostics& v, const std::string& of, RankKind kind);

// Singular values at the end, on a log scale: weight, momentum and update beside each other.
PictureScript spectrum_picture(const std::vector<VariantDiagnostics>& all, const std::string& matrix);
// mean_rank() against tokens.
PictureScript rank_picture(const std::vector<VariantDiagnostics>& all, RankKind kind);
// By group against tokens, without steps that updated nothing (the learning rate may end at 0).
PictureScript update_ratio_picture(const std::vector<VariantDiagnostics>& all);
PictureScript cosine_picture(const std::vector<VariantDiagnostics>& all);
// Final losses by decile, and what they are above the baseline's.
PictureScript decile_picture(const std::vector<VariantDiagnostics>& all);

}  // namespace spectrain
