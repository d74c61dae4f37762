#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/operation.h"
#include "model/tape.h"
#include "model/work.h"

namespace spectrain {

// The memory of a tape's parameters: master values and gradients in flat buffers, and each matrix that takes
// part in a product prepared for the backend. One Parameters serves several programs recorded by the same
// model (training, validation, sampling).
class Parameters {
 public:
  // `compute`: dtype of the prepared matrices. `training`: gradients too, and matrices prepared for backward.
  // `values`: of which parameters master values are kept: of all, or only of those that a forward pass reads
  // itself (embeddings, gains, biases). Of the others there is then the prepared matrix alone, and view() has
  // a value without memory: somebody else keeps the master values and calls set().
  enum class Values : std::uint8_t { all, read };
  Parameters(const Tape& tape, Backend& backend, DType compute, bool training, Values values = Values::all);
  ~Parameters();

  Backend& backend() const { return backend_; }
  std::size_t size() const { return infos_.size(); }
  const ParameterInfo& info(std::size_t i) const { return infos_[i]; }
  ParameterView view(std::size_t i) const;
  std::vector<ParameterView> views() const;
  int find(std::string_view name) const;  // -1 when there is none
  bool is_prepared(std::size_t i) const { return prepared_[i] != nullptr; }
  const PreparedMatrix& prepared(std::size_t i) const;
  const PreparedMatrix& rounded(std::size_t i) const;  // as products of eight-bit floats read it
  DType compute() const { return compute_; }
  bool has_value(std::size_t i) const { return has_value_[i] != 0; }

  // Every parameter from its initializer with the stream of its name: independent of all others and of order.
  // `seen` is shown each parameter's master values, also of those that are not kept.
  void initialize(std::uint64_t seed, const std::function<void(std::size_t, const Tensor&)>& seen = {});
  // New master values of every parameter: fill(i, whole) writes them, padding rows included.
  void assign(const std::function<void(std::size_t, const Tensor&)>& fill,
              const std::function<void(std::size_t, const Tensor&)>& seen = {});
  // Prepared matrices of bf16 are rounded stochastically from here on (kernels/stochastic_rounding.h), with
  // random bits of the seed, the parameter, how many steps its weights have seen, and the element. Takes room
  // for the largest matrix. Weights that are never prepared, and those of an f32 program, are not rounded.
  void round_stochastically(std::uint64_t seed);
  bool rounds_stochastically() const { return rounded_weights_ != nullptr; }
  void set_steps(std::int64_t steps) { steps_ = steps; }  // that the weights to come have seen
  // to = from, master values [first, first + n) of parameter i, in bf16 as programs will read them.
  void round(std::size_t i, std::int64_t first, const Tensor& from, const Tensor& to);

  void refresh();               // after master values changed: prepared matrices follow
  void refresh(std::size_t i);  // the same for one
  // New values [shape] of one parameter, master or compute dtype (master where has_value()).
  void set(std::size_t i, const Tensor& values);
  // A hash of what programs read of parameter i: equal on ranks that hold the same weights.
  std::uint64_t hash(std::size_t i) const;
  std::uint64_t hash() const;  // of all, to compare runs

 private:
  void prepare(std::size_t i, const Tensor& values);

  Backend& backend_;
  DType compute_;
  std::vector<ParameterInfo> infos_;
  std::vector<std::uint8_t> has_value_;
  std::vector<std::size_t> offsets_, value_offsets_;  // of gradients, of values
  std::unique_ptr<Buffer> values_, gradients_;
  std::vector<std::unique_ptr<PreparedMatrix>> prepared_, rounded_;
  std::unique_ptr<Buffer> rounded_weights_;  // the largest prepared matrix, rounded stochastically
  std::uint64_t rounding_seed_ = 0;
  std::vector<std::uint64_t> rounding_streams_;
  std::int64_t steps_ = 0;
};

struct ProgramOptions {
  DType compute = DType::f32;
  bool training = true;
  bool recompute = false;                  // run cheap operations (norms, activations) again in the backward
                                           // pass instead of keeping their results
  bool stochastic_rounding = false;        // of the weights: Parameters::round_stochastically()
  std::size_t logits_budget = 256u << 20;  // bytes of logits that may exist at a time
};

// What a program and its parameters will allocate, computed from shapes alone.
struct MemoryPlan {
  std::size_t weights = 0;   // master values
  std::size_t prepared = 0;  // matrices in the form products read them
  std::size_t gradients = 0;
  std::size_t activations =
      0;  // kept from forward to backward or alive within a pass, after sharing by lifetime
  std::size_t workspace = 0;  // logits chunks, inputs, constants, what the backend keeps for itself
  std::size_t total() const { return weights + prepared + gradients + activations + workspace; }
};
MemoryPlan plan_memory(const Tape& tape, const BackendSizes& backend, const ProgramOptions& options);

// What others want to know while a program runs; i is the parameter's index in Parameters. Each may be empty.
struct ProgramHooks {
  std::function<void(std::size_t i)> before_use;  // once per pass, before the first operation that reads it
  std::function<void(std::size_t i)>
      gradient_done;                // after the last operation of a pass that writes its gradient
  std::function<bool()> idle = {};  // asked before a pass: the other two would do nothing in it
};

class Program {
 public:
  // `losses` is the value the program produces (and, in training, differentiates).
  Program(const Tape& tape, Value losses, Parameters& parameters, const ProgramOptions& options);
  ~Program();

  // Writes an input's elements (host memory, i32); throws std::logic_error for an unknown name or wrong
  // count.
  void set_input(std::string_view name, std::span<const std::int32_t> values);
  void set_input(std::string_view name, std::span<const float> values);  // of a real_input()

  void set_hooks(ProgramHooks hooks);
  void forward();
  // Gradients of gradient_scale * sum(losses) go into the parameters' gradients: overwritten when !accumulate
  // (first micro-batch), added otherwise.
  void forward_backward(double gradient_scale, bool accumulate);

  // The same with labels drawn from the model's own distribution in the place of the inputs' targets, which
  // are overwritten: gradients for estimates of the curvature. Never recorded.
  void forward_backward_sampled(double gradient_scale, bool accumulate, const SampledLabels& labels);

  // A backend that can record work (kernels/backend.h, record()) does a pass of a kind in the ordinary way
  // the first time, and replays it from the second on; not where hooks are called in between that are not
  // idle.

  Tensor result() const;                    // the recorded value, after forward() or forward_backward()
  void add_result_to(const Tensor& total);  // total [1] f64 += the sum of its elements; nobody waits
  std::vector<double> host_result() const;
  // One forward_backward() (forward() of an evaluation program) with the time of each operation, by kind and
  // direction ("linear", "linear backward"), longest first. `now` gives seconds.
  std::vector<TimedWork> profile(const NowSeconds& now, const MachineRates& rates);
  // The first value in forward order that holds a NaN or infinity ("h.3.attention.qkv", "h.3 norm"), "" when
  // none: replays the last batch operation by operation.
  std::string first_nonfinite();

 private:
  const Tensor& input(std::string_view name, std::size_t values, bool real) const;
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spectrain
