#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "model/tape.h"

namespace spectrain {

// The memory of a tape's parameters: master values and gradients in flat buffers, and each matrix that takes
// part in a product prepared for the backend. One Parameters serves several programs recorded by the same
// model (training, validation, sampling).
class Parameters {
 public:
  // `compute`: dtype of the prepared matrices. `training`: gradients too, and matrices prepared for backward.
  Parameters(const Tape& tape, Backend& backend, DType compute, bool training);
  ~Parameters();

  Backend& backend() const { return backend_; }
  std::size_t size() const { return infos_.size(); }
  const ParameterInfo& info(std::size_t i) const { return infos_[i]; }
  ParameterView view(std::size_t i) const;
  std::vector<ParameterView> views() const;
  int find(std::string_view name) const;  // -1 when there is none
  const PreparedMatrix& prepared(std::size_t i) const;

  // Every parameter from its initializer with the stream of its name: independent of all others and of order.
  void initialize(std::uint64_t seed);
  void refresh();  // after master values changed: prepared matrices follow
  // FNV-1a 64 over names and master bytes, to compare runs.
  std::uint64_t hash() const;

 private:
  Backend& backend_;
  std::vector<ParameterInfo> infos_;
  std::vector<std::size_t> offsets_;
  std::unique_ptr<Buffer> values_, gradients_;
  std::vector<std::unique_ptr<PreparedMatrix>> prepared_;
};

struct ProgramOptions {
  DType compute = DType::f32;
  bool training = true;
  bool recompute = false;                  // run cheap operations (norms, activations) again in the backward
                                           // pass instead of keeping their results
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
MemoryPlan plan_memory(const Tape& tape, const Backend& backend, const ProgramOptions& options);

class Program {
 public:
  // `losses` is the value the program produces (and, in training, differentiates).
  Program(const Tape& tape, Value losses, Parameters& parameters, const ProgramOptions& options);
  ~Program();

  // Writes an input's elements (host memory, i32); throws std::logic_error for an unknown name or wrong
  // count.
  void set_input(std::string_view name, std::span<const std::int32_t> values);

  void forward();
  // Gradients of gradient_scale * sum(losses) go into the parameters' gradients: overwritten when !accumulate
  // (first micro-batch), added otherwise.
  void forward_backward(double gradient_scale, bool accumulate);

  Tensor result() const;  // the recorded value, after forward() or forward_backward()
  std::vector<double> host_result() const;
  // One forward_backward() (forward() of an evaluation program) with the time of each operation, by kind and
  // direction ("linear", "linear backward"), longest first. `now` gives seconds.
  struct OperationTime {
    std::string name;
    std::int64_t calls = 0;
    double seconds = 0;
  };
  std::vector<OperationTime> profile(const std::function<double()>& now);
  // The first value in forward order that holds a NaN or infinity ("h.3.attention.qkv", "h.3 norm"), "" when
  // none: replays the last batch operation by operation.
  std::string first_nonfinite();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spectrain
