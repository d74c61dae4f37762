#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "kernels/collectives.h"
#include "model/program.h"
#include "optim/optimizer.h"
#include "optim/shard_plan.h"
#include "optim/sharding.h"

// The optimizer of a job of one or many ranks: takes the gradients a training program makes, adds them over
// ranks, updates, and brings the new weights back. Every rank makes the same calls.
//
//   owners    (shard_plan.h) gradients are reduce-scattered bucket by bucket while the backward pass of the
//             last micro-batch still runs; each rank updates what it owns; new weights are all-gathered while
//             the next forward pass runs, which waits bucket by bucket
//   replicas  gradients are all-reduced, every rank updates everything: what `owners` is tested against
//
// One rank is Optimizer itself, in place, without a copy or a call. The sums of ranks are taken in rank order
// (collectives.h), so both modes make the same bits, and without clipping those of one process that adds the
// ranks' gradients in that order.

namespace spectrain {

// The plan that a model trained by `ranks` with `owners` follows, from its recording alone.
ShardPlan shard_plan_of(const Tape& tape, const OptimizerConfig& config, DType compute, DType master,
                        int ranks, std::int64_t bucket_bytes);

class DistributedOptimizer {
 public:
  // Parameters of more than one rank under `owners` should be made with Values::read: master values are here.
  DistributedOptimizer(Backend& backend, Parameters& parameters, const OptimizerConfig& config,
                       Collectives& collectives, const DistributedOptions& options);
  ~DistributedOptimizer();

  // For every program over these parameters: before_use brings weights, gradient_done releases gradients.
  ProgramHooks hooks();

  void initialize(std::uint64_t seed);
  // As initialize(seed) leaves a new one, after any number of steps: weights and state.
  void restart(std::uint64_t seed);
  // New master values of every parameter, which have seen so many steps: read(i, whole) fills `whole`,
  // padding rows included.
  void assign(std::int64_t steps, const std::function<void(std::size_t i, const Tensor& whole)>& read);

  // Before the last micro-batch of a step: gradients that it completes may leave.
  void release_gradients();
  // Between such passes: the sum over ranks of the gradients that were made of sampled labels (rule.h,
  // observe_sampled), `tokens` of them together. Where it is not finite it is passed over.
  bool wants_sampled_gradient(std::int64_t step) const;
  void observe_sampled(std::int64_t step, double lr_factor, double tokens);
  // After it: the update. The loss (loss_sum [1] f64, in the backend's memory) and the caller's `sums`
  // (votes, at most kMostSums) are added over ranks with the same message as the squares of the gradient.
  // Nothing is updated where the gradient or the loss is not finite.
  //
  // Returns what is known by now. A host that computes waits for the sums, and decides by them: this step. A
  // device is never let stand idle: it decides by itself (Optimizer::update_late), and here is the step
  // before, nothing at the first. The host waits for the device once, when it has asked for all of this step;
  // so it is at most one step ahead. Where a rule needs the host's decision, it is this step on a device too,
  // and the wait is between the backward pass and the update. Where the device decides, a loss that is not
  // finite is the end: no later step updates anything, until restart(). Throws PeerFailure.
  static constexpr std::size_t kMostSums = 8;
  struct StepResult {
    std::int64_t step = 0;
    StepReport report;
    double own_loss = 0;          // this rank's
    double loss = 0;              // of all ranks
    double sums[kMostSums] = {};  // of all ranks
  };
  std::optional<StepResult> step(std::int64_t step, double lr_factor, const Tensor& loss_sum,
                                 std::span<const double> sums);
  // What step() has not returned yet of the last step, waiting for it.
  std::optional<StepResult> finish_step();
  // With OptimizerConfig::average, after `steps` steps: whether there is one. Between the other two all
  // programs see the blend with it; every rank makes both calls.
  bool has_average(std::int64_t steps) const;
  void show_average();
  void restore_weights();

  // Until all weights are those of the last step.
  void finish_weights();
  // Throws Error naming the first tensor that is not the same on all ranks, and the ranks. Waits for weights.
  void compare_weights(std::int64_t step);

  // What this rank writes into a checkpoint: the tensors, or parts of them, that it owns (nothing for
  // replicas other than rank 0). Master values and the optimizer's state.
  std::vector<StateTensor> owned_values() const;
  std::vector<StateTensor> owned_state() const;
  // All that the ranks together write: names, dtypes and whole shapes, without memory.
  std::vector<StateTensor> value_layout() const;
  std::vector<StateTensor> state_layout() const;
  // The state this rank has, to be filled from a checkpoint.
  std::vector<StateTensor> state() const;

  // As of Optimizer: the same groups on every rank; the parts are those this rank updates, with the sums of
  // all ranks' gradients (of replicas everything, on each).
  std::vector<MeasuredGroup> groups() const;
  std::vector<MeasuredPart> parts() const;
  std::string describe() const;
  // As of Optimizer: of this rank's part, with its own gradients; nothing is sent.
  std::vector<TimedWork> profile(std::int64_t step, double lr_factor, const NowSeconds& now,
                                 const std::function<MachineRates(DType)>& rates);
  const ShardPlan* plan() const;  // null unless the work is shared by `owners`

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spectrain
