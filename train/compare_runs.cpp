#include "train/compare_runs.h"

#include <algorithm>
#include <filesystem>

#include "model/transformer.h"
#include "optim/groups.h"
#include "train/compare_config.h"
#include "version.h"

namespace spectrain {
namespace {

// What a step and the state of each rule cost, from the shapes of the model that all runs share.
class Costs {
 public:
  explicit Costs(const RunConfig& config) {
    transformer(tape_, config.model.resolved(), config.micro_batch(), config.batch.context);
    for (const ParameterInfo& p : tape_.parameters()) pointers_.push_back(&p);
  }
  double flops(const OptimizerConfig& config) const {
    const OptimizerPlan plan = plan_groups(pointers_, config, DType::f32);
    double sum = 0;
    for (const GroupPlan& group : plan.groups)
      for (const Shape& shape : group.part_shapes()) sum += group.rule->flops(shape);
    return sum;
  }
  double state_bytes(const OptimizerConfig& config) const {
    return static_cast<double>(Optimizer::state_bytes(tape_.parameters(), config, DType::f32));
  }

 private:
  Tape tape_;
  std::vector<const ParameterInfo*> pointers_;
};

ComparedRun read_run(const CompareState& state, const PlannedRun& planned, const std::string& directory,
                     const Costs& costs) {
  ComparedRun run;
  run.variant = state.plan().variants[planned.variant].name;
  run.point = planned.point;
  run.seed = planned.seed;
  run.directory = directory;
  run.diverged = state.outcome(planned)->diverged;
  const std::string metrics = directory + "/metrics.jsonl";
  std::error_code none;
  // A run may diverge before it has written a line.
  if (std::filesystem::file_size(metrics, none) > 0 && !none) run.metrics = read_metrics(metrics);
  for (const MetricsLine& line : run.metrics.lines)
    if (line.val_loss)
      run.validation.push_back({static_cast<double>(line.step), static_cast<double>(line.tokens),
                                line.train_seconds, *line.val_loss});
  const ModelCount model = count(planned.config.model, planned.config.batch.context);
  run.flops_per_token = static_cast<double>(model.flops_per_token);
  run.parameters = model.parameters;
  run.optimizer_flops_per_step = costs.flops(planned.config.optimizer);
  run.optimizer_bytes = costs.state_bytes(planned.config.optimizer);
  return run;
}

// Of all machines that took part.
std::string hardware_of(const std::vector<ComparedRun>& runs) {
  std::vector<std::string> devices;
  for (const ComparedRun& run : runs)
    if (const std::string& device = run.metrics.header.device;
        !device.empty() && std::find(devices.begin(), devices.end(), device) == devices.end())
      devices.push_back(device);
  std::string text;
  for (const std::string& device : devices) text += (text.empty() ? "" : "; ") + device;
  return text;
}

ComparedVariant describe_variant(const CompareState& state, std::size_t v, const Search& search) {
  const PlanVariant& variant = state.plan().variants[v];
  ComparedVariant out;
  out.name = variant.name;
  GridPoint point = search.best;
  if (!search.missing.empty()) point = search.points.front();  // no better one is known yet
  out.differences = differences(state.base(), configuration(state.plan(), variant, point, 0));
  for (const PlanAxis& axis : variant.axes) out.axes.push_back(axis.name);
  out.at_edge = search.at_edge;
  return out;
}

}  // namespace

ComparedRuns collect_runs(CompareState& state) {
  const ComparePlan& plan = state.plan();
  const CompareState::View view = state.look();
  ComparedRuns results;
  results.name = plan.name;
  results.baseline = plan.baseline;
  results.target = plan.target;
  results.rule = plan.rule;
  results.sigma = plan.sigma;
  results.threshold = plan.threshold;
  results.version = SPECTRAIN_VERSION;
  results.base_yaml = to_yaml(state.base());
  for (std::size_t v = 0; v < plan.variants.size(); ++v) {
    results.variants.push_back(describe_variant(state, v, view.searches[v]));
    const std::vector<GridExtension>& extensions = view.searches[v].extensions;
    results.extensions.insert(results.extensions.end(), extensions.begin(), extensions.end());
  }
  const Costs costs(state.base());
  for (const PlannedRun* planned : view.asked) {
    ComparedVariant& variant = results.variants[planned->variant];
    const RunOutcome* outcome = state.outcome(*planned);
    if (!outcome) {
      ++variant.unfinished;
      continue;
    }
    if (planned->horizon == 1 && outcome->diverged) ++variant.failed;
    auto& list = planned->horizon == 1 ? results.runs : results.horizons;
    list.push_back(read_run(state, *planned, state.store().run(planned->id), costs));
  }
  results.hardware = hardware_of(results.runs);
  return results;
}

}  // namespace spectrain
