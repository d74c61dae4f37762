#pragma once

#include <memory>
#include <vector>

#include "model/operation.h"
#include "model/tape.h"

// The operations of the tape. Formulas and shapes are those of the kernels in kernels/backend.h.

namespace spectrain {

// The FLOP of a product x [rows,K] . W^T, W [N,K] the prepared input 1; backward: of the gradients of x and W
// that are wanted.
double product_flops(std::int64_t rows, const Run& run, bool backward);

std::unique_ptr<Operation> make_embedding(std::int64_t context);  // tokens, table, positions
std::unique_ptr<Operation> make_linear();                         // x, w, bias
std::unique_ptr<Operation> make_activation(Activation act);       // x
std::unique_ptr<Operation> make_swiglu();                         // x
std::unique_ptr<Operation> make_add();                            // a, b
std::unique_ptr<Operation> make_scale(double factor);             // x
std::unique_ptr<Operation> make_norm(NormKind kind, double eps);  // x, gain, bias
std::unique_ptr<Operation> make_qk_transform(const HeadLayout& layout, bool norm, double eps,
                                             RotaryPairs pairs,
                                             int sign);                             // qkv, cos, sin
std::unique_ptr<Operation> make_attention(const HeadLayout& layout, double scale);  // qkv, first keys
std::unique_ptr<Operation> make_cross_entropy(std::int64_t vocab, const Softcap& cap,
                                              const Fp8Head& fp8);  // x, head, bias, targets

// operations_mix.cpp
std::unique_ptr<Operation> make_mix(std::vector<MixFactor> factors);  // the terms, then the weights
std::unique_ptr<Operation> make_columns(std::int64_t first, std::int64_t count);       // x
std::unique_ptr<Operation> make_with_columns(std::int64_t first, std::int64_t count);  // x, columns
std::unique_ptr<Operation> make_gate();                                                // x, gates
std::unique_ptr<Operation> make_previous(std::int64_t context);                        // x

// operations_images.cpp
std::unique_ptr<Operation> make_unfold(const Patches& patches);               // x
std::unique_ptr<Operation> make_pool(PoolKind kind, const Patches& patches);  // x
std::unique_ptr<Operation> make_convolution(const Patches& patches);          // x, filters

// operations_layers.cpp
std::unique_ptr<Operation> make_reshape(Shape shape);  // x
std::unique_ptr<Operation> make_batch_norm(double eps,
                                           double momentum);   // x, gain, bias, running mean and variance
std::unique_ptr<Operation> make_squared_error();               // y, target, mask
std::unique_ptr<Operation> make_class_loss(double smoothing);  // logits, targets

// Fusions: one kernel for two recorded operations. nullptr when `op` is not of that kind.
const Activation* activation_of(const Operation& op);
struct NormOptions {
  NormKind kind;
  double eps;
};
const NormOptions* norm_of(const Operation& op);
bool is_linear(const Operation& op);
bool is_add(const Operation& op);
void linear_activation_forward(const Run& linear, Activation act, const Tensor& pre, const Tensor& y);
// linear's din[0] is the gradient of the activation's input.
void linear_activation_backward(const Run& linear, Activation act, const Tensor& saved);
void add_norm_forward(const Run& add, const NormOptions& options, const Run& norm);

}  // namespace spectrain
