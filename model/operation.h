#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/backend.h"

// What an operation must say of itself so that the tape can differentiate, fuse, plan and replay it. Adding
// one is one class here or elsewhere and one recording function on the tape; no model is ever touched.

namespace spectrain {

// Labels that the model draws itself, in the place of the targets: token r of the pass with the random
// numbers of row first + r.
struct SampledLabels {
  RandomKey key;
  std::int64_t first = 0;
};

// Everything one execution reads and writes. Entries an execution does not need hold empty tensors.
struct Run {
  Backend* backend = nullptr;
  DType compute = DType::f32;
  std::vector<Tensor> in, out;                  // values, in the order recorded
  std::vector<const PreparedMatrix*> prepared;  // per input: set where prepared_input(i)
  std::vector<const PreparedMatrix*> rounded;   // the same in training where rounded_input(i) asks for it
  std::vector<Tensor> dout;                     // gradients of the outputs (backward)
  std::vector<Tensor> din;                      // where gradients of the inputs go; empty: not wanted
  std::vector<std::uint8_t> accumulate;         // per input: add to din instead of overwriting it
  Tensor workspace;                             // workspace_bytes() bytes, as i32
  double gradient_scale = 1;                    // of the loss
  bool training = true;                         // the pass will have, or has had, a backward part
  const SampledLabels* sampled = nullptr;       // a loss replaces its targets first
};

struct ValueSpec {
  Shape shape;
  bool master =
      false;  // statistics and losses are kept in the master dtype, activations in the compute dtype
};

class Operation {
 public:
  virtual ~Operation() = default;
  virtual std::string_view name() const = 0;
  // Output 0 is the value; further outputs are statistics the backward pass wants. Throws std::logic_error
  // when the shapes do not fit.
  virtual std::vector<ValueSpec> outputs(const std::vector<Shape>& in) const = 0;

  virtual void forward(const Run& run) const = 0;
  virtual void backward(const Run& run) const = 0;

  // ---- what the planner asks
  virtual bool backward_reads_input(std::size_t) const { return false; }
  virtual bool backward_reads_output(std::size_t) const { return false; }
  virtual bool differentiable_input(std::size_t) const { return true; }
  // Input i is a matrix taken in its prepared form.
  virtual bool prepared_input(std::size_t) const { return false; }
  // In training input i is also wanted as products of eight-bit floats read it (MatrixKernels::prepare_fp8),
  // with this scale; 0: not.
  virtual double rounded_input(std::size_t) const { return 0; }
  // backward() can add to din[i]; otherwise the planner adds a temporary.
  virtual bool accumulates(std::size_t) const { return false; }
  // backward() always adds to din[i] (scatter): the planner zeroes it first.
  virtual bool only_adds(std::size_t) const { return false; }
  virtual bool forward_in_place() const { return false; }   // output 0 may be input 0's memory
  virtual bool backward_in_place() const { return false; }  // din[0] may be dout[0]'s memory
  // The gradient of every input is the gradient of output 0 itself: nothing is computed, memory is shared.
  virtual bool passes_gradient() const { return false; }
  virtual bool cheap() const { return false; }  // worth running again instead of keeping the output
  // Of input i, a table, a pass touches no more rows than output 0 has.
  virtual bool looks_up(std::size_t) const { return false; }
  // Of its matrix products, forward or backward (those of gradients that are wanted): 2 for each
  // multiplication with addition. For comparing times with what a machine can do; may read tensors.
  virtual double flops(const Run&, bool /*backward*/) const { return 0; }
  // A loss: in training its backward() also makes output 0, and forward() is not called.
  virtual bool is_loss() const { return false; }
  // `logits`: the dtype in which the backend wants them (TokenKernels::logits).
  virtual std::size_t workspace_bytes(const std::vector<Shape>& /*in*/, DType /*compute*/, DType /*logits*/,
                                      bool /*training*/, std::size_t /*logits_budget*/) const {
    return 0;
  }
};

}  // namespace spectrain
