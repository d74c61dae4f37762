#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "model/parameter.h"
#include "model/work.h"
#include "optim/adamw.h"
#include "optim/finish.h"
#include "optim/muon.h"
#include "optim/rule_options.h"
#include "optim/schedule.h"

namespace spectrain {

// The gradient is taken a little ahead on the smoothed path of the weights (modded-nanogpt track 3, record
// 39). After each step of the rule, which made W:
//
//   b = decay b + (1 - decay) (W - P)     P = W     then, where from <= step < until:  W = W + strength b
//
// P begins as the first weights. Validation and checkpoints see the weights that the next gradient is taken
// at. State: 2 numbers per parameter (path, looked_from). strength 0: off. until 0: to the end.
struct LookAheadOptions {
  double strength = 0, decay = 0.99;
  std::int64_t from = 0, until = 0;  // steps
  bool operator==(const LookAheadOptions&) const = default;
};

struct GroupConfig {
  std::vector<Role> parameters;  // every parameter's role must be in exactly one group
  RuleOptions rule;
  FinishOptions finish = {};
  LookAheadOptions look_ahead = {};
  // What updates those parameters of the group that the rule cannot: vectors and slivers in a group of a
  // matrix rule. The default is the AdamW that Muon was published with. `finish` does not hold for them.
  RuleOptions elementwise = AdamWOptions{3e-4, 0.9, 0.95, 1e-10, 0};
  bool operator==(const GroupConfig&) const = default;
};

// The mean of the weights over the last part of a run, for evaluating it:
//
//   A = W at step from, then A = decay A + (1 - decay) W after each step
//
// and what is evaluated is (1 - blend) W + blend A. State: 1 number per parameter (average).
struct AverageOptions {
  std::int64_t from = 0;  // step; 0: off
  double decay = 0.99, blend = 1;
  bool operator==(const AverageOptions&) const = default;
};

struct OptimizerConfig {
  std::vector<GroupConfig> groups;
  double clip = 0;         // global gradient norm is scaled down to this; 0: off
  std::int64_t steps = 0;  // of the whole run, for what changes over it; 0: not known
  AverageOptions average = {};
  bool operator==(const OptimizerConfig&) const = default;
};

// A named tensor, for checkpoints: "h.0.attention.qkv.momentum". Where ranks share the work it may be a part
// of it: elements [first, first + tensor.numel()) of a tensor of shape `whole`.
struct StateTensor {
  std::string name;
  Tensor tensor;
  Shape whole = {};  // rank 0: the tensor is whole
  std::int64_t first = 0;
  bool is_whole() const { return whole.rank() == 0; }
  const Shape& whole_shape() const { return is_whole() ? tensor.shape : whole; }
};

// What this process updates of one parameter, for those who measure between steps: the optimizer's own
// tensors, not to be written.
struct MeasuredPart {
  std::size_t parameter = 0;  // index among the parameters
  std::size_t group = 0;      // into Optimizer::groups()
  std::int64_t first = 0;     // element of the parameter that the weight begins with
  Tensor weight, gradient;    // master, of the same shape; the gradient is that before clipping
  std::vector<std::pair<std::string, Tensor>> state;  // {"momentum", ...}
};
// Parameters of the whole model that one rule updates.
struct MeasuredGroup {
  std::string parameters, rule;  // "hidden", "hidden (small)": what the group's rule cannot update; "muon"
  std::int64_t numbers = 0;      // 0: the model has none
};

struct OptimizerPlan;
struct Piece;

struct StepReport {
  double gradient_norm = 0;   // global, before clipping
  bool finite = true;         // false: nothing was updated
  std::int64_t matrices = 0;  // that a matrix rule updated here
};

class Optimizer {
 public:
  // Throws RequestError when a parameter's role is in no group or in two, a group names no role, or an option
  // is out of range. A group whose roles the model does not have is allowed: it is shown with 0 tensors.
  Optimizer(Backend& backend, std::vector<ParameterView> parameters, OptimizerConfig config);
  // Only some pieces of the parameters, as a plan shares them among ranks: weights[i] and gradients[i] are
  // pieces[i]'s, master, of its shape. State exists for these pieces alone.
  Optimizer(Backend& backend, OptimizerPlan plan, std::vector<Piece> pieces, std::span<const Tensor> weights,
            std::span<const Tensor> gradients, const OptimizerConfig& config);
  ~Optimizer();

  // The two halves of step(), for ranks that add their squares in between: total [1] f64 += the sum over this
  // process's pieces of g^2, and the update, given the sum over all ranks.
  void add_gradient_squares(const Tensor& total) const;
  StepReport update(std::int64_t step, double lr_factor, double squares);
  // The update, given sums that the host has not seen: squares and loss [1] f64 in the backend's memory. The
  // device then decides by itself (OptimizerKernels::clip_factor), and everything is as update() would have
  // left it; after a loss that is not finite nothing changes any more, until restart(). Only where every rule
  // of the model takes_late_scale(), which is the same on all ranks. Returns StepReport::matrices.
  // The device finds the numbers of a step in its memory, so that from the second step on the update is
  // replayed as recorded, with what `then` asks for behind it: that must be the same in every step, and
  // possible to record.
  bool updates_late() const;
  std::int64_t update_late(std::int64_t step, double lr_factor, const Tensor& squares, const Tensor& loss,
                           const std::function<void()>& then = {});
  // One step from the parameters' gradients, which are not written. step counts from 0; lr_factor is the
  // schedule's. With n the norm of all gradients together, each is taken as clip / n of itself when n > clip
  // > 0. A norm that is not finite leaves parameters and state as they were.
  StepReport step(std::int64_t step, double lr_factor);

  // One step as above, with the time and the least work of each of its parts ("the gradient's norm",
  // "update by muon"): state and weights read and written once, gradients read once, the rules' FLOPs.
  // rates(dtype): of products of that dtype.
  std::vector<TimedWork> profile(std::int64_t step, double lr_factor, const NowSeconds& now,
                                 const std::function<MachineRates(DType)>& rates);

  // Whether some rule wants gradients of sampled labels before update(step), and the hand-over of them: those
  // that are in the parameters' gradients now, the mean over `tokens` labels (rule.h).
  bool wants_sampled_gradient(std::int64_t step) const;
  void observe_sampled(std::int64_t step, double lr_factor, double tokens);

  // As it was made: state is zero, and the next step is the first. Parameters are not touched.
  void restart();

  // With OptimizerConfig::average, after `steps` steps: whether there is one yet; until restore_weights() the
  // weights are the blend with it.
  bool has_average(std::int64_t steps) const;
  void show_average();
  void restore_weights();

  // One tensor per parameter and kind of state, zero before the first step: ".momentum" (muon), ".adam_m" and
  // ".adam_v" (adamw), in the order of the parameters. Padding rows have no state. Of an optimizer of pieces:
  // the parts of these tensors that it has, neighbours joined.
  std::vector<StateTensor> state() const;
  // Names, dtypes and whole shapes of all state of the model, without memory: of every rank's pieces.
  std::vector<StateTensor> state_layout() const;
  std::vector<MeasuredGroup> groups() const;
  std::vector<MeasuredPart> parts() const;  // of this process, every trained element once
  // The printed table: one line per group with roles, tensors, parameters, rule, lr, decay, bytes of state.
  std::string describe() const;
  // Bytes the constructor allocates for these parameters, from shapes alone: state, and the matrix rules'
  // shared workspace with the sum of squares. Throw the constructor's RequestErrors.
  static std::size_t state_bytes(std::span<const ParameterInfo> parameters, const OptimizerConfig& config,
                                 DType master);
  static std::size_t workspace_bytes(std::span<const ParameterInfo> parameters, const OptimizerConfig& config,
                                     const BackendSizes& backend);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spectrain
