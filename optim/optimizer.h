#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "kernels/backend.h"
#include "model/parameter.h"
#include "optim/schedule.h"

namespace spectrain {

struct AdamWOptions {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  bool operator==(const AdamWOptions&) const = default;
};

enum class NewtonSchulzTable : std::uint8_t { keller, polar_express, you, exact, polar_express_105 };
// Of the same polynomials: iterating on the matrix, or on its Gram matrix, cheaper unless it is square
// (newton_schulz.h).
enum class NewtonSchulzForm : std::uint8_t { standard, gram };
struct NewtonSchulzOptions {
  NewtonSchulzTable coefficients = NewtonSchulzTable::polar_express;
  int steps = 0;                 // 0: the table's own count (5; exact: 12)
  DType precision = DType::f32;  // of the iterations: f32, bf16, or f16 on CUDA; the norm is always f32
  NewtonSchulzForm form = NewtonSchulzForm::standard;
  bool operator==(const NewtonSchulzOptions&) const = default;
};

// How large the step of an [out, in] matrix is: lr * scale * orthogonal factor.
enum class ShapeScale : std::uint8_t {
  original,   // sqrt(max(1, out / in))           (Jordan 2024)
  match_rms,  // 0.2 sqrt(max(out, in))           (Moonlight, 2502.16982: learning rates of AdamW carry over)
  unit_rms,   // sqrt(out / in)                   (spectral norm condition, Bernstein)
};

struct MuonOptions {
  double lr = 0.02, momentum = 0.95, weight_decay = 0;
  bool nesterov = true;
  ShapeScale shape_scale = ShapeScale::original;
  MomentumWarmup momentum_warmup;
  NewtonSchulzOptions newton_schulz;
  bool operator==(const MuonOptions&) const = default;
};

using RuleOptions = std::variant<AdamWOptions, MuonOptions>;

struct GroupConfig {
  std::vector<Role> parameters;  // every parameter's role must be in exactly one group
  RuleOptions rule;
  bool operator==(const GroupConfig&) const = default;
};

struct OptimizerConfig {
  std::vector<GroupConfig> groups;
  double clip = 0;  // global gradient norm is scaled down to this; 0: off
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

struct OptimizerPlan;
struct Piece;

struct StepReport {
  double gradient_norm = 0;   // global, before clipping
  bool finite = true;         // false: nothing was updated
  std::int64_t matrices = 0;  // that a matrix rule updated here
};

class Optimizer {
 public:
  // Throws RequestError when a parameter's role is in no group or in two, a group names no role, or a rule
  // cannot update a parameter given to it (a matrix rule needs matrices with sides of at least 8). A group
  // whose roles the model does not have is allowed: it is shown with 0 tensors.
  Optimizer(Backend& backend, std::vector<ParameterView> parameters, OptimizerConfig config);
  // Only some pieces of the parameters, as a plan shares them among ranks: weights[i] and gradients[i] are
  // pieces[i]'s, master, of its shape. State exists for these pieces alone.
  Optimizer(Backend& backend, OptimizerPlan plan, std::vector<Piece> pieces, std::span<const Tensor> weights,
            std::span<const Tensor> gradients, double clip);
  ~Optimizer();

  // The two halves of step(), for ranks that add their squares in between: total [1] f64 += the sum over this
  // process's pieces of g^2, and the update, given the sum over all ranks.
  void add_gradient_squares(const Tensor& total) const;
  StepReport update(std::int64_t step, double lr_factor, double squares);
  // One step from the parameters' gradients, which are not written. step counts from 0; lr_factor is the
  // schedule's. With n the norm of all gradients together, each is taken as clip / n of itself when n > clip
  // > 0. A norm that is not finite leaves parameters and state as they were.
  StepReport step(std::int64_t step, double lr_factor);

  // One tensor per parameter and kind of state, zero before the first step: ".momentum" (muon), ".adam_m" and
  // ".adam_v" (adamw), in the order of the parameters. Padding rows have no state. Of an optimizer of pieces:
  // the parts of these tensors that it has, neighbours joined.
  std::vector<StateTensor> state() const;
  // Names, dtypes and whole shapes of all state of the model, without memory: of every rank's pieces.
  std::vector<StateTensor> state_layout() const;
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
