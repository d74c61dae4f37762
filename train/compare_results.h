#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "train/clock.h"
#include "train/config.h"
#include "train/metrics.h"

namespace spectrain {

// What a comparison of optimizers has to report: the runs that are finished, as train/compare_runs.cpp
// collects them from their directories, and what the plan says about them. train/compare_statistics.h
// computes with it, train/compare_report.h writes it down.

// One place of a variant's grid: {"lr", 0.02}, {"weight_decay", 0.1}; the names are the plan's.
using GridPoint = std::vector<std::pair<std::string, double>>;

struct ComparedRun {
  std::string variant;
  GridPoint point;
  std::uint64_t seed = 0;
  std::string directory;  // of the run, for reading more of metrics.jsonl
  MetricsFile metrics;
  std::vector<ValidationPoint> validation;  // ascending steps; the last is at the end of the decay
  double flops_per_token = 0;               // of forward and backward pass, without the optimizer
  double optimizer_flops_per_step = 0;
  double optimizer_bytes = 0;  // of state
  std::int64_t parameters = 0;
  bool diverged = false;  // ended by a loss that is not finite; so is a run without a final validation
};

// A sweep that went beyond its grid because the best value lay at its edge.
struct GridExtension {
  std::string variant, axis;
  double value = 0;  // that was added
  bool upward = true;
};

struct ComparedVariant {
  std::string name;
  std::vector<std::string> differences;  // keys in which its configuration differs from the base:
                                         // "optimizer.0.lr: 0.02 (base 0.001)"
  std::vector<std::string> axes;         // of its grid
  bool at_edge = false;                  // the best is still at an edge, with all extensions used
  std::size_t unfinished = 0;            // runs that the plan asks for and that are not there
  std::size_t failed = 0;                // runs that ended without a final validation (diverged)
};

enum class SignificanceRule : std::uint8_t {
  welch,   // of two groups of runs
  paired,  // of the differences of runs with the same seed
  track3,
};

struct ComparedRuns {
  std::string name;      // of the plan
  std::string baseline;  // variant that speed-ups are measured against
  double target = 0;     // validation loss; 0: the baseline's final mean
  SignificanceRule rule = SignificanceRule::welch;
  double sigma = 0;                       // of final losses between seeds; 0: estimated from the runs
  double threshold = 0.004;               // of the track-3 rule
  std::vector<ComparedVariant> variants;  // in the plan's order
  std::vector<ComparedRun> runs;
  // Of the tuned baseline with other token budgets, if the plan asks for them: what its scaling law is fitted
  // to, together with its best runs.
  std::vector<ComparedRun> horizons;
  std::vector<GridExtension> extensions;
  std::string hardware, version;  // of the machine and the program that wrote the report
  std::string base_yaml;          // the effective configuration that the variants change
};

}  // namespace spectrain
