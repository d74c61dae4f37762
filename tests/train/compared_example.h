#pragma once

#include <cmath>
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

// A comparison of the size that people run: twelve variants, grids, three seeds, one variant far behind, one
// with runs that diverged; curves fall like those of real runs.
inline ComparedRuns field_of_twelve() {
  ComparedRuns results;
  results.name = "field of twelve";
  results.baseline = "adamw";
  results.hardware = "CPU, 2 cores";
  results.version = "0.6.0 (b7f8f21)";
  results.base_yaml = "model:\n  width: 256\n  layers: 6\ntrain: {steps: 200}\n";
  const struct {
    const char* name;
    double loss, best_lr, bytes, optimizer_flops, slower;
  } variants[] = {{"muon", 4.212, 0.02, 4.4, 3e9, 1.05},
                  {"normuon", 4.209, 0.02, 4.5, 3.1e9, 1.06},
                  {"soap", 4.224, 0.003, 16, 2e10, 2.1},
                  {"shampoo", 4.291, 0.0015, 12, 1.5e10, 1.8},
                  {"scion", 4.236, 0.0005, 4, 3e9, 1.04},
                  {"muonh", 4.219, 0.018, 4.4, 3.2e9, 1.07},
                  {"adamw", 4.318, 0.003, 8, 1.4e8, 1.0},
                  {"lion", 4.352, 0.0003, 4, 1e8, 0.99},
                  {"adafactor", 4.366, 0.01, 0.1, 2e8, 1.0},
                  {"signum", 4.421, 0.0003, 4, 8e7, 0.99},
                  {"spectral-descent", 4.487, 0.03, 0.6, 5e9, 1.3},
                  {"sgd", 6.35, 0.3, 4, 6e7, 0.98}};
  std::uint64_t noise = 99;
  const auto jitter = [&] {
    noise = noise * 6364136223846793005u + 1442695040888963407u;
    return static_cast<double>(noise >> 40) / 16777216.0 - 0.5;
  };
  for (const auto& v : variants) {
    results.variants.push_back(
        {v.name, {"optimizer.0.rule: " + std::string(v.name) + " (base adamw)"}, {"lr"}, false, 0, 0});
    for (int step = -2; step <= 2; ++step)
      for (std::uint64_t seed = 1; seed <= (step == 0 ? 3u : 1u); ++seed) {
        const double final_value = v.loss + 0.03 * step * step * (step > 0 ? 1.6 : 1) + 0.006 * jitter();
        ComparedRun run;
        run.variant = v.name;
        run.point = {{"lr", v.best_lr * std::pow(2.0, step)}};
        run.seed = seed;
        run.directory = "runs/" + run.variant;
        run.flops_per_token = 6.2e7;
        run.optimizer_flops_per_step = v.optimizer_flops;
        run.optimizer_bytes = v.bytes * 1e7;
        run.parameters = 10000000;
        run.diverged = run.variant == "lion" && step == 2;
        for (int at = 0; at <= (run.diverged ? 40 : 200); at += 10) {
          const double t = at / 200.0, fall = std::pow(1 + 40 * t, -0.8),
                       cooled = t < 0.7 ? 0 : (t - 0.7) / 0.3;
          const double loss =
              final_value + 0.12 * (1 - cooled) + (10.0 - final_value) * (fall - std::pow(41, -0.8));
          run.validation.push_back({1.0 * at, 8192.0 * at, 0.8 * at * v.slower, at == 0 ? 10.1 : loss});
          if (at > 0)
            run.metrics.lines.push_back(
                {at, 8192 * at, 0.8 * at, loss, {}, {{"gradient_norm", 1 + jitter()}}});
        }
        results.runs.push_back(std::move(run));
      }
  }
  results.variants[7].failed = 1;
  results.variants[11].at_edge = true;
  results.extensions = {{"sgd", "lr", 1.2, true}, {"sgd", "lr", 2.4, true}};
  return results;
}

}  // namespace spectrain
