#include "train/saved_run.h"

#include <fmt/format.h>

#include <filesystem>

#include "kernels/error.h"
#include "train/checkpoint.h"
#include "train/session.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

std::string newest_in(const std::string& run_directory) {
  std::vector<std::string> notes;
  const auto found = newest_checkpoint(run_directory + "/checkpoints", Verify::sizes, &notes);
  for (const std::string& note : notes) fmt::print(stderr, "{}\n", note);
  if (!found) throw RequestError(fmt::format("{} holds no complete checkpoint", run_directory));
  return found->path;
}

}  // namespace

SavedRun find_saved_run(const std::string& path, const std::vector<std::string>& overrides) {
  const fs::path given = fs::path(path).lexically_normal();
  if (fs::exists(given / "config.yaml"))
    return {with_resolved_model(load_config((given / "config.yaml").string(), overrides)),
            newest_in(given.string())};
  // <run>/checkpoints/step-00001000
  const fs::path checkpoint = given.filename().empty() ? given.parent_path() : given;
  const fs::path config = checkpoint.parent_path().parent_path() / "config.yaml";
  if (!fs::exists(checkpoint / "manifest.json"))
    throw RequestError(fmt::format(
        "{} is neither a run directory (with config.yaml) nor a checkpoint (with manifest.json)", path));
  if (!fs::exists(config))
    throw RequestError(
        fmt::format("the checkpoint {} is not inside a run: {} is missing", path, config.string()));
  return {with_resolved_model(load_config(config.string(), overrides)), checkpoint.string()};
}

SavedRun find_saved_run_of_config(const std::string& config, const std::vector<std::string>& overrides) {
  SavedRun run{with_resolved_model(load_config(config, overrides)), {}};
  run.checkpoint = newest_in(run.config.run.directory + "/" + run.config.run.name);
  return run;
}

void load_parameters(const SavedRun& run, Parameters& parameters) {
  std::vector<StateTensor> tensors;
  for (const ParameterView& p : parameters.views()) tensors.push_back({p.info->name, p.value});
  CheckpointReader(run.checkpoint).load_model(parameters.backend(), tensors);
  parameters.refresh();
}

}  // namespace spectrain
