#include "train/lab/laboratory.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <stdexcept>

#include "kernels/error.h"
#include "train/failure.h"
#include "train/interrupt.h"
#include "train/lab/lab_results.h"
#include "train/metrics.h"

namespace spectrain::lab {
namespace {

// Somebody may watch through a pipe.
void print(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

// Every claim is judged, each once, and nothing else is.
void check_outcome(const Outcome& outcome, const std::vector<Claim>& claims) {
  for (const ClaimResult& result : outcome.claims) {
    result.verdict();
    const auto is_this = [&](const Claim& c) { return c.id == result.claim.id; };
    if (std::none_of(claims.begin(), claims.end(), is_this))
      throw std::logic_error(
          fmt::format("the outcome judges {}, which is none of the claims", result.claim.id));
  }
  for (const Claim& claim : claims) {
    const auto n = std::count_if(outcome.claims.begin(), outcome.claims.end(),
                                 [&](const ClaimResult& r) { return r.claim.id == claim.id; });
    if (n != 1) throw std::logic_error(fmt::format("the outcome judges claim {} {} times", claim.id, n));
  }
}

std::string verdicts_of(const ExperimentRecord& record) {
  std::string text;
  for (const ClaimResult& c : record.outcome.claims)
    text += fmt::format("{}{}", text.empty() ? "" : ", ", words_of(c.verdict()));
  return text;
}

Outcome unmeasured(const std::vector<Claim>& claims) {
  Outcome out;
  for (const Claim& claim : claims) out.claims.push_back({claim, {}});
  return out;
}

}  // namespace

ExperimentRecord run_experiment(ConfiguredExperiment& experiment, const LaboratoryRun& run,
                                Backend& backend) {
  Experiment& e = *experiment.experiment;
  ExperimentRecord record;
  record.id = experiment.id;
  record.experiment = e.name();
  record.title = e.title();
  record.file = experiment.file;
  record.changed = experiment.changed;
  record.quick = run.quick;
  record.seed = run.seed;
  record.version = run.version;
  record.device = backend.description();
  const std::vector<Claim> claims = e.claims();
  const auto begun = std::chrono::steady_clock::now();
  try {
    record.outcome = e.run(
        {backend, run.quick, run.seed, run.data, [](const std::string& line) { print("       " + line); }});
    check_outcome(record.outcome, claims);
  } catch (const RequestError& missing) {
    record.not_run = missing.what();
  } catch (const std::exception& failure) {
    // Experiments are independent of each other: hours of others are not lost with this one.
    record.not_run = "it failed: " + failure_sentence(failure);
  }
  if (!record.not_run.empty()) record.outcome = unmeasured(claims);
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begun).count();
  record.finished = utc_now();
  return record;
}

std::vector<ExperimentRecord> run_experiments(std::vector<ConfiguredExperiment>& experiments,
                                              const LaboratoryRun& run, Backend& backend) {
  const InterruptGuard guard;
  std::vector<ExperimentRecord> records;
  for (ConfiguredExperiment& experiment : experiments) {
    if (InterruptGuard::raised()) break;
    print(fmt::format("[{}/{}] {}: {}{}", records.size() + 1, experiments.size(), experiment.id,
                      experiment.experiment->title(), run.quick ? " (quick)" : ""));
    ExperimentRecord record = run_experiment(experiment, run, backend);
    const bool kept = keep_record(record, run.out);
    if (record.not_run.empty())
      print(fmt::format("       {:.1f} s: {}", record.seconds, verdicts_of(record)));
    else
      print(fmt::format("       not run: {}{}", record.not_run,
                        kept ? "" : "; the report keeps what an earlier run measured"));
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace spectrain::lab
