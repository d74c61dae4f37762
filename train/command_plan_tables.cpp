#include "train/command_plan_tables.h"

#include <algorithm>

#include "fmt/format.h"
#include "model/program.h"
#include "model/transformer.h"
#include "optim/optimizer.h"
#include "train/session.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

// 123456789 as "123,456,789": long counts are compared by eye here.
std::string grouped(std::int64_t n) {
  std::string digits = std::to_string(n);
  for (std::size_t i = digits.size(); i > 3 + (n < 0 ? 1u : 0u);) digits.insert(i -= 3, ",");
  return digits;
}

std::string readable_bytes(std::size_t bytes) {
  const double b = static_cast<double>(bytes);
  if (bytes >= 1000000000) return fmt::format("{:.2f} GB", b / 1e9);
  return bytes >= 100000 ? fmt::format("{:.1f} MB", b / 1e6) : fmt::format("{:.1f} kB", b / 1e3);
}

std::string row(std::string_view name, const std::string& value, const std::string& why = "") {
  return fmt::format("  {:<22} {:>18}{}{}\n", name, value, why.empty() ? "" : "  ", why);
}

Tape record(const RunConfig& config) {
  Tape tape;
  transformer(tape, config.model.resolved(), config.micro_batch(), config.batch.context);
  return tape;
}
Tape record_validation(const RunConfig& config) {
  Tape tape;
  transformer(tape, config.model.resolved(), config.validation_batch(), config.validation_context());
  return tape;
}

std::int64_t parameters_of(std::span<const ParameterInfo> parameters, Role role) {
  std::int64_t sum = 0;
  for (const ParameterInfo& p : parameters)
    if (p.role == role) sum += p.logical_numel();
  return sum;
}

std::string model_rows(const RunConfig& config, std::span<const ParameterInfo> parameters) {
  const ModelCount model = count(config.model.resolved(), config.batch.context);
  return "Model\n" + row("parameters", grouped(model.parameters), "padding of the vocabulary not counted") +
         row("  hidden matrices", grouped(model.hidden)) +
         row("  embedding", grouped(parameters_of(parameters, Role::embedding)),
             config.model.tied ? "also the head" : "") +
         row("  head", grouped(parameters_of(parameters, Role::head))) +
         row("FLOPs per token", fmt::format("{:.4g}", static_cast<double>(model.flops_per_token)),
             "forward and backward matrix products");
}

std::string micro_batch_reason(const RunConfig& c) {
  if (c.batch.micro_batch > 0) return "sequences in memory at a time, batch.micro_batch";
  const std::int64_t tokens = c.micro_batch() * c.batch.context;
  if (c.micro_batch() == 1 && tokens > kMicroBatchTokens) return "one sequence is the least";
  return fmt::format("the largest divisor of {} with at most {} tokens ({})", grouped(c.sequences_per_step()),
                     grouped(kMicroBatchTokens), grouped(tokens));
}

std::string run_rows(const RunConfig& c) {
  std::string text = "\nRun\n";
  const std::int64_t steps = c.steps();
  if (steps == 0) {
    text += row("steps", "none yet", "give train.steps or train.tokens");
  } else {
    const double flops = static_cast<double>(count(c.model.resolved(), c.batch.context).flops_per_token) *
                         static_cast<double>(c.batch.tokens) * static_cast<double>(c.last_step());
    text += row("steps", grouped(steps),
                c.train.steps > 0 ? "train.steps"
                                  : fmt::format("ceil({} / {}), train.tokens / batch.tokens",
                                                grouped(c.train.tokens), grouped(c.batch.tokens)));
    if (c.last_step() < steps) text += row("stops after", grouped(c.train.stop), "train.stop");
    text += row("tokens", grouped(c.last_step() * c.batch.tokens),
                c.last_step() < steps ? "train.stop x batch.tokens" : "steps x batch.tokens");
    text += row("FLOPs", fmt::format("{:.4g}", flops), "tokens x FLOPs per token");
  }
  text += row("sequences per step", grouped(c.sequences_per_step()),
              fmt::format("{} / {}, batch.tokens / batch.context", grouped(c.batch.tokens),
                          grouped(c.batch.context)));
  text += row("micro-batch", grouped(c.micro_batch()), micro_batch_reason(c));
  text += row("accumulation", grouped(c.accumulation()), "micro-batches per step");
  return text;
}

std::string rule_cells(const GroupConfig& group) {
  const std::unique_ptr<UpdateRule> rule = group.rule.make(group.finish);
  return fmt::format("{:<16} {:>9} {:>9}", rule->name(), rule->lr(), rule->weight_decay());
}

std::string group_rows(const RunConfig& c, std::span<const ParameterInfo> parameters) {
  std::string text = fmt::format("\nParameter groups\n  {:<34} {:>8} {:>15}  {:<16} {:>9} {:>9}\n", "roles",
                                 "tensors", "parameters", "rule", "lr", "decay");
  for (const GroupConfig& group : c.optimizer.groups) {
    std::vector<std::string> roles;
    std::int64_t tensors = 0, size = 0;
    for (const Role role : group.parameters) {
      roles.emplace_back(name_of(role));
      tensors += std::count_if(parameters.begin(), parameters.end(),
                               [&](const ParameterInfo& p) { return p.role == role; });
      size += parameters_of(parameters, role);
    }
    text +=
        fmt::format("  {:<34} {:>8} {:>15}  {}\n", listed(roles), tensors, grouped(size), rule_cells(group));
  }
  if (c.optimizer.groups.empty()) text += "  none yet: the configuration lists no optimizer groups\n";
  return text;
}

std::string memory_rows(const MemoryTable& m, const RunConfig& c, const BackendSizes& backend) {
  return fmt::format("\nMemory on {}\n", backend.name()) + row("weights", readable_bytes(m.weights)) +
         row("prepared matrices", readable_bytes(m.prepared), "the weights as products read them") +
         row("gradients", readable_bytes(m.gradients)) +
         row("optimizer state", readable_bytes(m.optimizer_state)) +
         row("optimizer workspace", readable_bytes(m.optimizer_workspace)) +
         row("activations", readable_bytes(m.activations),
             fmt::format("{} sequences of {} in {}", c.micro_batch(), c.batch.context,
                         name_of(c.compute.precision))) +
         row("workspace", readable_bytes(m.workspace), "logits, inputs, constants") +
         row("validation", readable_bytes(m.validation),
             fmt::format("{} sequences of {}", c.validation_batch(), c.validation_context())) +
         row("total", readable_bytes(m.total()));
}

std::string lacking_rows(const RunConfig& c) {
  std::vector<std::string> lacks;
  if (c.data.train.empty()) lacks.emplace_back("data.train");
  if (c.optimizer.groups.empty()) lacks.emplace_back("optimizer");
  if (c.steps() == 0) lacks.emplace_back("train.steps or train.tokens");
  return lacks.empty() ? "" : "\nBefore this can be trained it needs: " + listed(lacks) + "\n";
}

}  // namespace

MemoryTable memory_table(const RunConfig& config, const BackendSizes& backend) {
  const Tape tape = record(config);
  const MemoryPlan plan = plan_memory(tape, backend, program_options(config, true));
  MemoryTable table;
  table.weights = plan.weights;
  table.prepared = plan.prepared;
  table.gradients = plan.gradients;
  table.activations = plan.activations;
  table.workspace = plan.workspace;
  const MemoryPlan validation =
      plan_memory(record_validation(config), backend, program_options(config, false));
  table.validation = validation.activations + validation.workspace - backend.working_bytes();
  if (!config.optimizer.groups.empty()) {
    table.optimizer_state = Optimizer::state_bytes(tape.parameters(), config.optimizer, backend.master());
    table.optimizer_workspace = Optimizer::workspace_bytes(tape.parameters(), config.optimizer, backend);
  }
  return table;
}

std::string plan_report(const RunConfig& config, const BackendSizes& backend) {
  const Tape tape = record(config);
  const std::vector<ParameterInfo>& parameters = tape.parameters();
  return model_rows(config, parameters) + run_rows(config) + group_rows(config, parameters) +
         memory_rows(memory_table(config, backend), config, backend) + lacking_rows(config);
}

}  // namespace spectrain
