#include <algorithm>
#include <cmath>
#include <limits>

#include "train/diagnostic_pictures.h"
#include "train/token_deciles.h"

namespace spectrain {
namespace {

const DecileMeasurement* final_deciles(const ComparedRun& run) {
  for (auto line = run.metrics.lines.rbegin(); line != run.metrics.lines.rend(); ++line)
    if (line->val_loss)
      return line->diagnostics && line->diagnostics->deciles ? &*line->diagnostics->deciles : nullptr;
  return nullptr;
}

// Means over runs that measured them.
std::vector<double> mean_deciles(const ComparedRuns& results, const std::vector<std::size_t>& runs) {
  std::vector<double> means;
  double count = 0;
  for (const std::size_t r : runs) {
    const DecileMeasurement* d = final_deciles(results.runs[r]);
    if (diverged(results.runs[r]) || !d || d->loss.size() != kDeciles) continue;
    means.resize(kDeciles, 0);
    for (std::size_t i = 0; i < kDeciles; ++i) means[i] += d->loss[i];
    ++count;
  }
  for (double& m : means) m /= count;
  return means;
}

std::vector<std::string> names_in(const std::vector<VariantDiagnostics>& all, const auto& list_of,
                                  const auto& name_of) {
  std::vector<std::string> names;
  for (const VariantDiagnostics& v : all)
    for (const MetricsLine* line : v.lines)
      for (const auto& m : list_of(*line->diagnostics))
        if (std::find(names.begin(), names.end(), name_of(m)) == names.end()) names.push_back(name_of(m));
  return names;
}

}  // namespace

std::vector<VariantDiagnostics> variant_diagnostics(const ComparedRuns& results,
                                                    const ComparisonStatistics& all) {
  std::vector<VariantDiagnostics> out;
  for (std::size_t i = 0; i < all.ranking.size(); ++i) {
    const VariantStatistics& v = all.ranking[i];
    if (!v.best) continue;
    VariantDiagnostics found{results.variants[v.variant].name, all.baseline == i, {}, {}};
    const std::vector<std::size_t>& runs = v.points[*v.best].runs;
    for (const std::size_t r : runs) {
      if (diverged(results.runs[r]) || !found.lines.empty()) continue;
      for (const MetricsLine& line : results.runs[r].metrics.lines)
        if (line.diagnostics && !(line.diagnostics->groups.empty() && line.diagnostics->spectra.empty()))
          found.lines.push_back(&line);
    }
    found.decile_loss = mean_deciles(results, runs);
    if (!found.lines.empty() || !found.decile_loss.empty()) out.push_back(std::move(found));
  }
  return out;
}

const SpectrumMeasurement* last_spectrum(const VariantDiagnostics& v, const std::string& matrix,
                                         const std::string& of) {
  for (auto line = v.lines.rbegin(); line != v.lines.rend(); ++line)
    for (const SpectrumMeasurement& s : (*line)->diagnostics->spectra)
      if (s.matrix == matrix && s.of == of && s.norm > 0) return &s;
  return nullptr;
}

std::vector<std::string> measured_matrices(const std::vector<VariantDiagnostics>& all) {
  return names_in(
      all, [](const DiagnosticsRecord& r) -> const auto& { return r.spectra; },
      [](const SpectrumMeasurement& s) -> const std::string& { return s.matrix; });
}

std::vector<std::string> measured_groups(const std::vector<VariantDiagnostics>& all) {
  return names_in(
      all, [](const DiagnosticsRecord& r) -> const auto& { return r.groups; },
      [](const GroupMeasurement& g) -> const std::string& { return g.parameters; });
}

double mean_rank(const DiagnosticsRecord& record, const std::string& of, RankKind kind) {
  double sum = 0, count = 0;
  for (const SpectrumMeasurement& s : record.spectra) {
    if (s.of != of || s.norm == 0) continue;  // a zero matrix has no direction to speak of
    const double rank = kind == RankKind::effective ? s.effective_rank : s.stable_rank;
    sum += rank / static_cast<double>(std::min(s.rows, s.cols));
    ++count;
  }
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

double last_mean_rank(const VariantDiagnostics& v, const std::string& of, RankKind kind) {
  for (auto line = v.lines.rbegin(); line != v.lines.rend(); ++line)
    if (const double rank = mean_rank(*(*line)->diagnostics, of, kind); std::isfinite(rank)) return rank;
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace spectrain
