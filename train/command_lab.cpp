#include "train/command_lab.h"

#include <fmt/format.h>
#include <version.h>

#include <algorithm>
#include <filesystem>
#include <memory>

#include "kernels/error.h"
#include "train/compare_fields.h"
#include "train/directory_lock.h"
#include "train/lab/lab_results.h"
#include "train/lab/lab_table.h"
#include "train/lab/laboratory.h"
#include "train/preset.h"
#include "train/session.h"

namespace spectrain {
namespace {

using namespace lab;

std::string folder_of(const LabRequest& request) {
  return request.configs.empty() ? find_configuration_folder("lab") : request.configs;
}

Device device_of(const std::string& word) {
  return word == "cpu" ? Device::cpu : word == "cuda" ? Device::cuda : Device::automatic;
}

std::string described(const Claim& claim) {
  std::string text = fmt::format("  - {}\n    source: {}\n    refuted by: {}\n", claim.sentence, claim.source,
                                 claim.refuted_by);
  if (!claim.remark.empty()) text += fmt::format("    remark: {}\n", claim.remark);
  return text;
}

void say_what_is_left(const std::vector<ConfiguredExperiment>& experiments, std::size_t done) {
  std::string left;
  for (std::size_t i = done; i < experiments.size(); ++i) left += ' ' + experiments[i].id;
  if (!left.empty()) fmt::print("\ninterrupted; not started:{}\n", left);
}

void report(const std::string& out) {
  write_results(read_records(out), out, SPECTRAIN_VERSION);
  fmt::print("{}/lab.html\n", out);
}

}  // namespace

int list_lab(const LabRequest& request, const ExperimentList& list) {
  for (const ConfiguredExperiment& e : read_laboratory(folder_of(request), false, list)) {
    std::string text = fmt::format("{}: {}\n", e.id, e.experiment->title());
    for (const Claim& claim : e.experiment->claims()) text += described(claim);
    fmt::print("{}\n", ascii(text));
  }
  return 0;
}

int run_lab(const LabRequest& request, const ExperimentList& list) {
  if (request.report_only) {
    const std::vector<ExperimentRecord> records = read_records(request.out);
    write_results(records, request.out, SPECTRAIN_VERSION);
    fmt::print("{}\n{}/lab.html\n", terminal_table(records), request.out);
    return 0;
  }
  std::vector<ConfiguredExperiment> experiments =
      chosen(request.wanted, folder_of(request), request.quick, list);
  ComputeSection compute;
  compute.device = device_of(request.device);
  const std::unique_ptr<Backend> backend = make_backend(compute);

  std::error_code failed;
  std::filesystem::create_directories(request.out, failed);
  if (failed)
    throw RequestError(fmt::format("cannot make the directory {}: {}", request.out, failed.message()));
  const Descriptor lock = lock_directory(request.out, "wait for it, or choose another directory with --out");
  const std::vector<ExperimentRecord> records = run_experiments(
      experiments, {request.quick, request.seed, request.data, request.out, SPECTRAIN_VERSION}, *backend);
  fmt::print("\n{}", terminal_table(records));
  say_what_is_left(experiments, records.size());
  if (!records.empty()) report(request.out);
  const bool all_ran =
      records.size() == experiments.size() &&
      std::all_of(records.begin(), records.end(), [](const auto& r) { return r.not_run.empty(); });
  return all_ran ? 0 : 1;
}

}  // namespace spectrain
