#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "model/parameter.h"

// A model is a plain function that records operations on a tape, once, for fixed shapes. compile()
// (program.h) derives the backward pass, plans memory and returns a Program that is replayed without
// allocating.

namespace spectrain {

struct Value {
  int id = -1;
  explicit operator bool() const { return id >= 0; }
};

// The factor on a term of a mix: constant + slope w, w = weights[weight], or the constant alone where that is
// -1.
struct MixFactor {
  double constant = 0, slope = 1;
  int weight = -1;
  static MixFactor one() { return {1, 0, -1}; }
  static MixFactor of(int weight) { return {0, 1, weight}; }
  static MixFactor rest_of(int weight) { return {1, -1, weight}; }  // 1 - w
};

// A head whose products are computed with eight-bit floats in training (speedrun #19 onward): x and the
// weights are read as e4m3(scale x) / scale, the gradient of one token's loss as e5m2(scale g) / scale. 0:
// not rounded.
struct Fp8Head {
  double x_scale = 0, weight_scale = 0, gradient_scale = 0;
  bool on() const { return x_scale > 0; }
  bool operator==(const Fp8Head&) const = default;
};

class Operation;  // operation.h

class Tape {
 public:
  Tape();
  ~Tape();
  Tape(Tape&&) noexcept;
  Tape& operator=(Tape&&) noexcept;

  // ---- leaves
  // Filled by the caller before each replay: of tokens (i32), and of numbers (compute dtype), whose gradients
  // nobody wants.
  Value input(std::string_view name, Shape shape);
  Value real_input(std::string_view name, Shape shape);
  // Names get the open scopes in front ("h.3." + "qkv"). Declaring a name twice with the same shape returns
  // the same parameter (tied weights); with another shape it throws std::logic_error.
  Value parameter(std::string_view name, Shape shape, Role role, Initializer init,
                  std::vector<std::int64_t> splits = {}, std::int64_t logical_rows = 0);
  Value constant(std::string_view name, Shape shape, std::vector<double> values);  // master dtype

  // ---- operations; formulas and shapes are those of kernels/backend.h
  // positions may be empty. Result [tokens.numel(), C]; row r is at position r % context.
  Value embedding(Value tokens, Value table, Value positions, std::int64_t context);
  Value linear(Value x, Value w, Value bias = {});
  Value activation(Activation act, Value x);
  Value swiglu(Value x);
  Value add(Value a, Value b);
  Value scale(Value x, double factor);
  Value norm(NormKind kind, Value x, Value gain, Value bias, double eps);
  // cos, sin: constants [>= context, head_dim/2] or empty values; only the first `layout.context` rows are
  // read.
  Value qk_transform(Value qkv, const HeadLayout& layout, bool norm, double eps, Value cos, Value sin,
                     RotaryPairs pairs, int sign);
  Value attention(Value qkv, const HeadLayout& layout, double scale, Value first_key = {});
  // y = sum_i factor_i terms_i, one to three terms of one shape; weights: parameters [1].
  Value mix(std::vector<Value> terms, std::vector<MixFactor> factors, const std::vector<Value>& weights);
  // y[:, 0:count] = x[:, first : first + count]
  Value columns(Value x, std::int64_t first, std::int64_t count);
  // y = x, but for y[:, first : first + v.cols()] = v
  Value with_columns(Value x, std::int64_t first, Value v);
  // y[r, g D + d] = x[r, g D + d] gates[r, g];  x [R,G D], gates [R,G]
  Value gate(Value x, Value gates);
  // Images lie channels last, [batch * height * width, channels]; filters are [N, patches.patch()], a row
  // kernel_height kernel_width channels. convolution(): y [places, N] = unfold(x) . filters^T
  Value unfold(Value x, const Patches& patches);
  Value convolution(Value x, Value filters, const Patches& patches);
  Value pool(PoolKind kind, Value x, const Patches& patches);
  // The same numbers in the same order as another matrix: [R,C] as [R', C'], R C = R' C'.
  Value reshape(Value x, Shape shape);
  // Over the rows of x [R,C]: y = (x - mean) / sqrt(variance + eps) gain + bias with the batch's own biased
  // statistics; gain, bias [C] may be empty  (Ioffe, Szegedy 2015)
  //   With running statistics each training pass moves them, the variance by its unbiased estimate, and a
  // program for evaluation normalises by them:
  //   running = (1 - momentum) running + momentum (mean, or sum (x - mean)^2 / (R - 1))
  // They are parameters [C] of the role fixed, which start at 0 and at 1.
  struct RunningStatistics {
    Value mean, variance;
    double momentum = 0.1;
  };
  Value batch_norm(Value x, Value gain, Value bias, double eps) { return batch_norm(x, gain, bias, eps, {}); }
  Value batch_norm(Value x, Value gain, Value bias, double eps, const RunningStatistics& running);
  // losses[r] = 1/2 sum_c mask (y - target)^2;  y, target [R,C], mask [R,C] may be empty
  Value squared_error(Value y, Value target, Value mask = {});
  // losses[r] of small numbers of classes: cross entropy of logits [R,K] (the value, not a head) with the
  // target (1 - smoothing) [k = targets[r]] + smoothing / K
  Value class_loss(Value logits, Value targets, double smoothing);
  // y[t] = x[t-1] within each sequence of `context` rows, y[0] = 0
  Value previous(Value x, std::int64_t context);
  // losses [R]; head [V,C]; logits exist only for a chunk of rows at a time. In training the gradients of x
  // and head are made in the same pass. bias [V] may be empty.
  Value cross_entropy(Value x, Value head, Value bias, Value targets, std::int64_t vocab, const Softcap& cap,
                      const Fp8Head& fp8 = {});

  // ---- what was recorded
  const std::vector<ParameterInfo>& parameters() const;
  Shape shape(Value v) const;

  // Prefixes the names declared while it lives: Scope in(t, "h", 3) gives "h.3.".
  class Scope {
   public:
    Scope(Tape& tape, std::string_view name);
    Scope(Tape& tape, std::string_view name, std::int64_t index);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Tape& tape_;
    std::size_t length_;
  };

  // Leaves the scopes that are open while it lives: for parameters that several of them share.
  class Unscoped {
   public:
    explicit Unscoped(Tape& tape);
    ~Unscoped();
    Unscoped(const Unscoped&) = delete;
    Unscoped& operator=(const Unscoped&) = delete;

   private:
    Tape& tape_;
    std::string scope_;
  };

  struct Recording;  // program.cpp reads it
  const Recording& recording() const { return *recording_; }
  // Programs keep what they replay alive: a tape may go before them.
  std::shared_ptr<const Recording> share() const { return recording_; }
  // For operations defined elsewhere: records op on inputs, returns its first output.
  Value record(std::unique_ptr<Operation> op, std::vector<Value> inputs);

 private:
  std::shared_ptr<Recording> recording_;
};

}  // namespace spectrain
