#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <span>

#include "kernels/error.h"
#include "optim/optimizer.h"
#include "train/commands.h"
#include "train/config_keys.h"
#include "train/suggestion.h"

// The list of rules: what each remembers and costs for a matrix whose sides are equal and for one of 4 to 1,
// the shapes of attention and of an MLP.

namespace spectrain {
namespace {

constexpr std::int64_t kWidth = 1024;
const Shape kSquare{kWidth, kWidth}, kWide{4 * kWidth, kWidth};

double state_per_parameter(const UpdateRule& rule, const Shape& shape) {
  std::int64_t numbers = 0;
  for (const StateSlot& slot : rule.state(shape)) numbers += slot.shape.numel();
  return static_cast<double>(numbers) / static_cast<double>(shape.numel());
}

double flops_per_parameter(const UpdateRule& rule, const Shape& shape) {
  return rule.flops(shape) / static_cast<double>(shape.numel());
}

std::string table() {
  using Row = std::array<std::string, 8>;
  std::vector<Row> rows = {
      {"rule", "for", "lr", "decay", "bytes 1:1", "bytes 4:1", "FLOPs 1:1", "FLOPs 4:1"}};
  for (const RuleOptions& options : all_rules()) {
    const std::unique_ptr<UpdateRule> rule = options.make({});
    Row row = {std::string(options.info().name), options.info().matrices ? "matrices" : "all",
               fmt::format("{:.4g}", rule->lr()), fmt::format("{:.4g}", rule->weight_decay())};
    for (const auto& [first, shape] : {std::pair{4, kSquare}, std::pair{5, kWide}}) {
      row[static_cast<std::size_t>(first)] = fmt::format("{:.1f}", 4 * state_per_parameter(*rule, shape));
      row[static_cast<std::size_t>(first) + 2] = fmt::format("{:.0f}", flops_per_parameter(*rule, shape));
    }
    rows.push_back(row);
  }
  std::array<std::size_t, 8> width{};
  for (const Row& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::string text;
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < row.size(); ++c)
      text += c < 2 ? fmt::format("{:<{}}  ", row[c], width[c]) : fmt::format("{:>{}}  ", row[c], width[c]);
    text.erase(text.find_last_not_of(' ') + 1);
    text += '\n';
  }
  return text;
}

std::string list_of_rules() {
  std::string text = table();
  text += fmt::format(
      "\nBytes of state and FLOPs of a step for each parameter with the defaults, for matrices of {} x {} "
      "and {} x "
      "{};\nweights and gradients take 4 bytes each beside that. A training step of B tokens takes about 6 B "
      "FLOPs "
      "for each parameter.\n\n",
      kSquare[0], kSquare[1], kWide[0], kWide[1]);
  for (const RuleOptions& options : all_rules())
    text += fmt::format("{:<17} {}\n{:<17} {}\n", options.info().name, options.info().formula, "",
                        options.info().source);
  text +=
      "\nWith every rule: decay (decoupled, independent, squared, cautious, falling), constraint: "
      "hyperball,\n"
      "update_floor, radial_brake, look_ahead; with every run: train.average, schedule.power.\n"
      "spectrain optimizers <rule> lists a rule's keys, spectrain plan --keys all of them.\n";
  return text;
}

const RuleOptions& rule_named(const std::string& name) {
  std::vector<std::string> names;
  for (const RuleOptions& options : all_rules()) {
    if (options.info().name == name) return options;
    names.emplace_back(options.info().name);
  }
  throw RequestError(fmt::format("there is no rule \"{}\"{} (rules: {})", name, did_you_mean(name, names),
                                 listed(names, ", ")));
}

}  // namespace

int run_optimizers(const std::string& name) {
  if (name.empty()) {
    fmt::print("{}", list_of_rules());
    return 0;
  }
  const RuleOptions& options = rule_named(name);
  const RuleInfo& info = options.info();
  fmt::print("{}: {}\n{}\n{}\n\n{}", info.name, info.formula, info.source,
             info.matrices
                 ? "For matrices; vectors, and matrices with a side below 8, are updated by the group's "
                   "`elementwise` rule."
                 : "For parameters of any shape.",
             rule_reference(options));
  return 0;
}

}  // namespace spectrain
