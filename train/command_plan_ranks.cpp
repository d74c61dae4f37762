#include "train/command_plan_ranks.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "kernels/error.h"
#include "model/transformer.h"
#include "optim/distributed_optimizer.h"

namespace spectrain {
namespace {

constexpr DType kMaster = DType::f32;
constexpr int kMostPredicted = 1024;
constexpr double kUpdateBytes =
    28;  // an element-wise update reads gradient, weight, two moments, writes three
// Beside gradients and weights a rank sends its sums (norm, loss, vote: 8 bytes each) to every other.
constexpr std::uint64_t kSums = 3 * sizeof(double);

ShardPlan plan_for(const RunConfig& config, int ranks) {
  if (config.optimizer.groups.empty())
    throw RequestError("plan --ranks needs to know the rules: give the configuration an optimizer");
  Tape tape;
  transformer(tape, config.model.resolved(), 1, config.batch.context);
  return shard_plan_of(tape, config.optimizer, config.compute.precision, kMaster, ranks,
                       config.distributed.bucket_mib << 20);
}

std::uint64_t bytes_sent(const RunConfig& config, const ShardPlan& plan, int rank) {
  const std::uint64_t others = static_cast<std::uint64_t>(plan.ranks - 1);
  if (config.distributed.sharding == Sharding::owners)
    return plan.gradient_bytes(rank, kMaster) + plan.weight_bytes(rank) + others * kSums;
  // Every gradient is all-reduced: the sum of each rank's share, and then the share to all.
  std::uint64_t numbers = 0;
  for (const Bucket& b : plan.buckets) numbers += static_cast<std::uint64_t>(b.numbers());
  return 2 * others * numbers * size_of(kMaster) / static_cast<std::uint64_t>(plan.ranks) + others * kSums;
}

std::string milliseconds(double seconds) { return fmt::format("{:.3g}", seconds * 1e3); }

std::string prediction(const RunConfig& config, const Fabric& fabric) {
  std::string text = fmt::format(
      "Prediction of a step of {} tokens, in milliseconds\n"
      "  {:>5} {:>11} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9} {:>7}\n",
      config.batch.tokens, "GPUs", "tokens/GPU", "compute", "update", "gradients", "weights", "exposed",
      "step", "share");
  const double one = predict_step(config, fabric, 1).step();
  for (int ranks = 1; ranks <= kMostPredicted; ranks *= 2) {
    if (config.sequences_per_step() % ranks != 0) {
      text += fmt::format("  {:>5} the {} sequences of a step cannot be shared equally\n", ranks,
                          config.sequences_per_step());
      break;
    }
    const StepTime t = predict_step(config, fabric, ranks);
    text += fmt::format("  {:>5} {:>11} {:>9} {:>9} {:>10} {:>9} {:>9} {:>9} {:>6.1f}%\n", ranks,
                        config.batch.tokens / ranks, milliseconds(t.compute), milliseconds(t.update),
                        milliseconds(t.gradients), milliseconds(t.weights), milliseconds(t.exposed),
                        milliseconds(t.step()), 100 * one / (t.step() * ranks));
  }
  text += fmt::format(
      "  Assumed: {:g} TFLOP/s of matrix products per GPU (Newton-Schulz included), {:g} GB/s of its memory "
      "for the\n",
      fabric.tflops, fabric.memory);
  text += fmt::format(
      "  rest of the update, {:g} GB/s out of a GPU within a host of {}, {:g} GB/s between hosts,\n",
      fabric.node_link, fabric.gpus_per_node, fabric.link);
  text +=
      fmt::format("  {:g} us per operation and {:g} us per rank in it; gradients travel in f32 during the\n",
                  fabric.latency * 1e6, fabric.hop * 1e6);
  text += fmt::format(
      "  backward pass, weights in {} during the next forward pass. share: of that many GPUs' worth.\n",
      name_of(config.compute.precision));
  return text;
}

}  // namespace

StepTime predict_step(const RunConfig& config, const Fabric& fabric, int ranks) {
  const ShardPlan plan = plan_for(config, ranks);
  const ModelCount model = count(config.model.resolved(), config.batch.context);
  StepTime t;
  t.ranks = ranks;
  t.compute = static_cast<double>(model.flops_per_token) * static_cast<double>(config.batch.tokens) / ranks /
              (fabric.tflops * 1e12);
  for (const RankShare& s : plan.shares) {
    const auto numbers = static_cast<double>(s.matrix_numbers + s.flat_numbers);
    t.update =
        std::max(t.update, s.flops / (fabric.tflops * 1e12) + numbers * kUpdateBytes / (fabric.memory * 1e9));
  }
  if (ranks == 1) return t;
  const double bandwidth = (ranks <= fabric.gpus_per_node ? fabric.node_link : fabric.link) * 1e9;
  const double latency = fabric.latency + fabric.hop * ranks;
  double last_gradients = 0, first_weights = 0;
  for (const Bucket& b : plan.buckets) {
    const auto elements = static_cast<double>(b.elements()) * (ranks - 1) / ranks;
    last_gradients = latency + elements * static_cast<double>(size_of(kMaster)) / bandwidth;
    first_weights = latency + elements * static_cast<double>(size_of(b.weights)) / bandwidth;
    t.gradients += last_gradients;
    t.weights += first_weights;
  }
  t.exposed = std::max(t.gradients - 2 * t.compute / 3, last_gradients) +
              std::max(t.weights - t.compute / 3, first_weights);
  return t;
}

std::string ranks_report(const RunConfig& config, int ranks, const Fabric& fabric) {
  const ShardPlan plan = plan_for(config, ranks);
  std::string text = fmt::format(
      "\nRanks ({})\n", config.distributed.sharding == Sharding::owners
                            ? "distributed.sharding: owners"
                            : "what owners would do; distributed.sharding is none, every rank updates all");
  text += describe(plan, kMaster) + "\n";
  return text + prediction(config, fabric);
}

std::string ranks_json(const RunConfig& config, int ranks) {
  const ShardPlan plan = plan_for(config, ranks);
  nlohmann::json rows = nlohmann::json::array();
  for (int r = 0; r < ranks; ++r) {
    const RankShare& s = plan.shares[static_cast<std::size_t>(r)];
    rows.push_back({{"matrices", s.matrices},
                    {"matrix_numbers", s.matrix_numbers},
                    {"other_numbers", s.flat_numbers},
                    {"flops", s.flops},
                    {"bytes_sent_per_step", bytes_sent(config, plan, r)}});
  }
  const nlohmann::json all = {{"ranks", ranks},
                              {"imbalance", plan.imbalance()},
                              {"padding", plan.padding()},
                              {"bytes_sent_per_step", bytes_sent(config, plan, 0)},
                              {"by_rank", rows}};
  return all.dump() + "\n";
}

}  // namespace spectrain
