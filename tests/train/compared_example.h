#pragma once

#include <string>
#include <vector>

#include "train/compare_results.h"

namespace spectrain {

// Runs of a comparison that nobody trained, with losses that can be computed by hand.

// Validations at steps 0, 25, 50, 75, 100 of 1000 tokens and 0.1 seconds each; the loss falls from 10 in
// straight lines through 6, 5 and 4.5 to `final_loss`.
inline ComparedRun example_run(const std::string& variant, double lr, std::uint64_t seed, double final_loss) {
  ComparedRun run;
  run.variant = variant;
  run.point = {{"lr", lr}};
  run.seed = seed;
  run.directory = "runs/" + variant;
  const double losses[] = {10, 6, 5, 4.5, final_loss};
  for (int i = 0; i < 5; ++i) run.validation.push_back({25.0 * i, 25000.0 * i, 2.5 * i, losses[i]});
  run.flops_per_token = 1e6;
  run.optimizer_flops_per_step = 1e8;
  run.optimizer_bytes = 8e4;
  run.parameters = 10000;
  run.metrics.header.run = variant;
  for (int step = 1; step <= 100; ++step)
    run.metrics.lines.push_back({step, 1000 * step, 0.1 * step, 4.0, {}, {{"gradient_norm", 0.5}}});
  return run;
}

inline ComparedRun diverged_run(const std::string& variant, double lr, std::uint64_t seed) {
  ComparedRun run = example_run(variant, lr, seed, 4);
  run.validation.resize(2);
  run.diverged = true;
  return run;
}

// adamw, the baseline: best at lr 0.001 with 4.01, 4.00, 4.02 (mean 4.01); muon: best at 0.02
// with 3.90, 3.91, 3.92 (mean 3.91), 0.04 diverged; sgd: best 4.40, one seed.
inline ComparedRuns example_results() {
  ComparedRuns results;
  results.name = "example";
  results.baseline = "adamw";
  results.variants = {{"adamw", {}, {"lr"}, false, 0, 0},
                      {"sgd", {"optimizer.0.rule: sgd (base adamw)"}, {"lr"}, true, 2, 0},
                      {"muon", {"optimizer.0.rule: muon (base adamw)"}, {"lr"}, false, 0, 1}};
  results.runs = {example_run("adamw", 0.0005, 1, 4.1), example_run("adamw", 0.001, 1, 4.01),
                  example_run("adamw", 0.001, 2, 4.00), example_run("adamw", 0.001, 3, 4.02),
                  example_run("adamw", 0.002, 1, 4.2),  example_run("muon", 0.01, 1, 3.95),
                  example_run("muon", 0.02, 3, 3.92),   example_run("muon", 0.02, 1, 3.90),
                  example_run("muon", 0.02, 2, 3.91),   diverged_run("muon", 0.04, 1),
                  example_run("sgd", 0.1, 1, 4.40),     example_run("sgd", 0.05, 1, 4.45)};
  results.extensions = {{"sgd", "lr", 0.1, true}};
  results.hardware = "2 cores";
  results.version = "0.1 (abc1234)";
  results.base_yaml = "run: {name: base}\n";
  return results;
}

}  // namespace spectrain
