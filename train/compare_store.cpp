#include "train/compare_store.h"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "train/compare_config.h"
#include "train/metrics.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kHashDigits = 8;

std::string marker_of(const std::string& run) { return run + "/finished.json"; }

void make_directory(const std::string& path) {
  std::error_code failed;
  fs::create_directories(path, failed);
  if (failed) throw Error(fmt::format("cannot make the directory {}: {}", path, failed.message()));
}

// An interrupted write leaves no marker, so what cannot be read was written by somebody else.
std::optional<RunOutcome> read_marker(const std::string& path) {
  const auto json = nlohmann::json::parse(read_text_file(path), nullptr, false);
  if (!json.is_object() || !json.contains("outcome"))
    throw RequestError(
        fmt::format("{} is not what this program writes; remove it to train that run again", path));
  RunOutcome outcome;
  outcome.diverged = json.at("outcome") == "diverged";
  outcome.loss = std::numeric_limits<double>::infinity();
  outcome.seconds = json.value("wall_seconds", 0.0);
  outcome.message = json.value("message", "");
  outcome.data = json.value("data", "");
  return outcome;
}

}  // namespace

CompareStore::CompareStore(std::string root) : root_(std::move(root)) { find_runs(); }

void CompareStore::find_runs() {
  std::error_code none;
  for (fs::directory_iterator it(runs(), none), end; !none && it != end; it.increment(none)) {
    const std::string id = it->path().filename().string();
    if (id.size() > kHashDigits && id[id.size() - kHashDigits - 1] == '-')
      ids_.emplace(id.substr(id.size() - kHashDigits), id);
  }
}

Descriptor CompareStore::lock() {
  for (const char* directory : {"/configs", "/logs", "/runs"}) make_directory(root_ + directory);
  Descriptor lock = lock_directory(
      root_, "the comparison is running already; wait for it, stop it, or give this one another name");
  find_runs();  // what another process has made meanwhile
  return lock;
}

std::string CompareStore::id_of(const PlanVariant& variant, const GridPoint& point, double horizon,
                                const RunConfig& config) {
  const std::string hash = identity_hash(config);
  if (const auto found = ids_.find(hash); found != ids_.end()) return found->second;
  std::string id = variant.name;
  for (const auto& [name, value] : point) id += fmt::format("-{}{:.6g}", name, value);
  if (horizon != 1) id += fmt::format("-x{:.6g}", horizon);
  id += fmt::format("-s{}-{}", config.run.seed, hash);
  return ids_[hash] = id;
}

bool CompareStore::matches(const std::string& id, const RunConfig& wanted) const {
  const std::string path = run(id) + "/config.yaml";
  if (!fs::exists(path)) return !fs::exists(run(id) + "/metrics.jsonl");
  try {
    return identity(load_config(path, {})) == identity(wanted);
  } catch (const RequestError&) {
    return false;  // of a program that knew other keys
  }
}

std::optional<double> CompareStore::final_loss(const std::string& id, const RunConfig& config) const {
  const std::string path = run(id) + "/metrics.jsonl";
  if (!fs::exists(path) || fs::file_size(path) == 0) return {};
  std::optional<double> loss;
  for (const MetricsLine& line : read_metrics(path).lines)
    if (line.step == config.steps() && line.val_loss) loss = line.val_loss;
  return loss && std::isfinite(*loss) ? loss : std::nullopt;
}

std::optional<RunOutcome> CompareStore::outcome(const std::string& id, const RunConfig& wanted) const {
  if (!fs::exists(marker_of(run(id))) || !matches(id, wanted)) return {};
  std::optional<RunOutcome> found = read_marker(marker_of(run(id)));
  if (found->diverged) return found;
  const std::optional<double> loss = final_loss(id, wanted);
  if (!loss) return {};
  found->loss = *loss;
  return found;
}

void CompareStore::set_aside(const std::string& id) const {
  int n = 1;
  while (fs::exists(fmt::format("{}.old-{}", run(id), n))) ++n;
  const std::string to = fmt::format("{}.old-{}", run(id), n);
  std::error_code failed;
  fs::rename(run(id), to, failed);
  if (failed) throw Error(fmt::format("cannot rename {} to {}: {}", run(id), to, failed.message()));
}

void CompareStore::finish(const std::string& id, const RunOutcome& outcome) const {
  make_directory(run(id));
  if (fs::exists(run(id) + "/metrics.jsonl")) PatchedFile(run(id) + "/metrics.jsonl").finish();
  nlohmann::ordered_json json = {{"outcome", outcome.diverged ? "diverged" : "finished"}};
  if (!outcome.diverged) json["val_loss"] = outcome.loss;
  if (!outcome.message.empty()) json["message"] = outcome.message;
  json["wall_seconds"] = outcome.seconds;
  json["data"] = outcome.data;
  json["at"] = utc_now();
  replace_file(marker_of(run(id)), json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
}

}  // namespace spectrain
