#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "train/compare_results.h"
#include "train/scaling_law.h"
#include "train/significance.h"

namespace spectrain {

// What the finished runs of a comparison say. The final validation loss of a run is its last, at the end of
// the decay; nothing else is ranked: mid-run losses belong to learning rates that have not decayed yet, and
// their order is another one.

// Ended without a finite final loss.
bool diverged(const ComparedRun& run);
double final_loss(const ComparedRun& run);   // infinite for a diverged run
double final_steps(const ComparedRun& run);  // at the last validation; 0 without one
double final_tokens(const ComparedRun& run);
// tokens * flops_per_token + steps * optimizer_flops_per_step, at a place of the run.
double flops_at(const ComparedRun& run, const ValidationPoint& at);

// One place of a variant's grid.
struct PointStatistics {
  GridPoint point;
  std::vector<std::size_t> runs;  // indices into ComparedRuns::runs, by seed
  Estimate loss;                  // of the runs that did not diverge
  std::size_t diverged = 0;
  double sweep_mean = 0;  // over the seeds that all points of the variant have; infinite if one diverged
};

// Where the validation curves first reach the target, by linear interpolation between validations; means over
// the runs that reach it.
struct ToTarget {
  std::size_t reached = 0, of = 0;
  double steps = 0, tokens = 0, seconds = 0, flops = 0;  // meaningless when reached = 0
};

// How many times fewer tokens than the tuned baseline a variant needs for the same loss.
struct SpeedUp {
  enum class Kind : std::uint8_t {
    none,      // cannot be said
    baseline,  // 1, of the baseline itself
    fit,       // by the baseline's scaling law over several budgets, as in Marin (2509.02046)
    at_least,  // the variant's own curve reaches the baseline's final loss that early, before its decay ended
    at_most,   // the baseline's curve reaches the variant's final loss that early, before its decay ended
    beyond,    // the fit says the baseline never gets there
  };
  Kind kind = Kind::none;
  double factor = 0;
};

struct Comparison {
  std::size_t a = 0, b = 0;      // indices into ComparisonStatistics::ranking: a against b
  double difference = 0;         // mean of a minus mean of b
  std::optional<TTest> test;     // by the plan's rule: Welch's, or of pairs
  std::optional<double> p;       // Welch's, corrected by Holm over all comparisons
  std::optional<double> margin;  // of the track-3 rule, positive where a is below b
  enum class Verdict : std::uint8_t { unknown, lower, higher, open };
  Verdict verdict = Verdict::unknown;  // of a against b at the level 0.05, or by the rule
};

struct VariantStatistics {
  std::size_t variant = 0;  // index into ComparedRuns::variants
  std::vector<PointStatistics> points;
  std::optional<std::size_t> best;  // of points; empty: none has a final loss
  // Of the best point, over all its seeds that did not diverge:
  Estimate loss;
  std::size_t diverged = 0;
  double steps = 0, tokens = 0, seconds = 0, flops = 0;  // of a whole run, mean
  ToTarget to_target;
  SpeedUp speed_up;
  double seconds_per_step = 0, optimizer_flops_share = 0, state_bytes_per_parameter = 0;
  std::optional<std::size_t> against_baseline, against_next;  // into ComparisonStatistics::comparisons
  std::optional<double> target_margin;                        // of the track-3 rule; only with a given target
  bool claims_target = false;
};

// The baseline's final loss with some budget of tokens: the lowest mean of the settings that were tried
// there.
struct BudgetLoss {
  double tokens = 0, loss = 0;
  std::size_t settings = 0;  // tried there; 1: it was not tuned for this budget
};

struct ComparisonStatistics {
  double target = 0;  // the given one, or the baseline's final mean
  bool target_given = false;
  std::optional<double> sigma;      // between seeds: given, or pooled over the best points of all variants
  std::size_t sigma_degrees = 0;    // 0: given
  double threshold = 0;             // of the track-3 rule, for that sigma
  std::vector<BudgetLoss> budgets;  // of the baseline, ascending; one alone without horizons
  std::optional<ScalingLaw> law;    // through them, where they are enough
  // Best final mean first; then variants some of whose final runs diverged, then those without a final loss.
  std::vector<VariantStatistics> ranking;
  std::vector<Comparison> comparisons;  // each variant with the baseline, and neighbours in the ranking
  std::optional<std::size_t> baseline;  // in the ranking
};

// Throws RequestError without a single run or with a baseline that no variant is called.
ComparisonStatistics compare_statistics(const ComparedRuns& results);

// The mean of the validation curves of a variant's best point, at the steps that all its runs have; without
// those that diverged.
std::vector<ValidationPoint> mean_validation(const ComparedRuns& results, const VariantStatistics& variant);

}  // namespace spectrain
