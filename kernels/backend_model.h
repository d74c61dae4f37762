#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/fp8.h"
#include "kernels/random.h"
#include "kernels/tensor.h"

// The kernels of models' forward and backward passes. A part of backend.h, which has the conventions.

namespace spectrain {

// ---------------------------------------------------------------------------------------------- matrices

// A weight matrix [N,K] in the form the matrix products of this backend read fastest (packed panels on the
// CPU, a bf16 copy on a GPU, nothing at all in the reference). Made once, refreshed after each optimizer
// step.
class PreparedMatrix {
 public:
  virtual ~PreparedMatrix() = default;
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }

 protected:
  std::int64_t rows_ = 0, cols_ = 0;
};

enum class Activation : std::uint8_t {
  none,
  gelu,       // x * Phi(x), exact (erf)
  gelu_tanh,  // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), GPT-2's
  relu2,      // max(x, 0)^2  (So et al. 2021, "Primer")
  sigmoid,    // 1 / (1 + e^-x), of gates
  relu,       // max(x, 0)
};
// Whether its derivative is taken from the output: 2 sqrt(y), y (1 - y), y > 0. Of the others from the input.
constexpr bool saves_output(Activation act) {
  return act == Activation::relu2 || act == Activation::sigmoid || act == Activation::relu;
}

// A matrix x [R,C] as the products of eight-bit floats read it (MatrixKernels::encode_fp8).
struct Fp8Operand {
  Tensor memory;  // [R,C] in the compute dtype
  Fp8 format = Fp8::e4m3;
  double scale = 1;
  // What is in the memory: the bits of fp8(scale x) as [R,C] and behind them as [C,R], a byte each; or the
  // numbers fp8(scale x) / scale.
  bool eight_bits = false;
};

class MatrixKernels {
 public:
  // `backward`: the matrix will also be used by linear_backward_input.
  virtual std::unique_ptr<PreparedMatrix> prepare(const Tensor& master, DType compute, bool backward) = 0;
  virtual void refresh(PreparedMatrix& matrix, const Tensor& master) = 0;
  // Its bytes in this backend's form, in host memory: the same for the same weights, for comparing ranks.
  virtual std::vector<std::byte> contents(const PreparedMatrix& matrix) const = 0;

  // y[R,N] = act(x[R,K] . W[N,K]^T + bias[N]).  bias: master dtype or empty. y: compute dtype or master
  // dtype. pre (optional, [R,N], y's dtype): also receives the value before the activation.
  virtual void linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act,
                      const Tensor& pre, const Tensor& y) = 0;
  // dx[R,K] (+)= dy[R,N] . W[N,K]
  virtual void linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                                     bool accumulate) = 0;
  // Further back through the activation that made x: dx[R,K] = (dy . W) act'(saved), saved [R,K] and dx of
  // the compute dtype, as activation_backward() takes them. The default does one after the other, in place.
  virtual void linear_activation_backward(const Tensor& dy, const PreparedMatrix& w, Activation act,
                                          const Tensor& saved, const Tensor& dx) = 0;
  // dW[N,K] (+)= dy[R,N]^T . x[R,K];  dW in master dtype
  virtual void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                      bool accumulate) = 0;
  // db[N] (+)= sum over rows of dy[R,N];  db in master dtype
  virtual void bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) = 0;

  // y = fp8(scale x) / scale: x as a product of eight-bit floats would read it (fp8.h). x, y compute or
  // master dtype; may be in place.
  virtual void round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) = 0;

  // Products of matrices that are read as eight-bit floats, for a head in training (model/tape.h, Fp8Head). A
  // GPU that has them (compute capability 8.9 and later) multiplies the eight bits themselves in bf16
  // training; everything else multiplies the rounded numbers as its other products do. With scales that are
  // powers of two both multiply the same numbers.
  //
  // W [N,K] = e4m3(scale w) / scale, for the functions below alone. `values`: master or compute dtype.
  virtual std::unique_ptr<PreparedMatrix> prepare_fp8(double scale, const Tensor& values, DType compute) = 0;
  virtual void refresh_fp8(PreparedMatrix& w, const Tensor& values) = 0;
  // x [R,C] for products in which w takes part, in `memory` [R,C] of the compute dtype, which must not
  // overlap x and be left alone until the last of those products.
  virtual Fp8Operand encode_fp8(Fp8 format, double scale, const Tensor& x, const PreparedMatrix& w,
                                const Tensor& memory) = 0;
  // y[R,N] = x . W^T + bias[N], as linear() without an activation. With eight bits the sums may be kept in
  // fewer bits than f32 has, as in the record that this follows (speedrun #19).
  virtual void linear_fp8(const Fp8Operand& x, const PreparedMatrix& w, const Tensor& bias,
                          const Tensor& y) = 0;
  // The gradients, as linear_backward_input() and linear_backward_weight(); sums in f32.
  virtual void linear_backward_input_fp8(const Fp8Operand& dy, const PreparedMatrix& w, const Tensor& dx,
                                         bool accumulate) = 0;
  virtual void linear_backward_weight_fp8(const Fp8Operand& dy, const Fp8Operand& x, const Tensor& dw,
                                          bool accumulate) = 0;

  // The next four take batches too: a, b, c, d [B, rows, cols] of rank 3, one product for each of the B. For
  // optimizers. Those of f16 are for a GPU alone.
  // c[M,N] = alpha op(a) . op(b) + beta c;  a, b of one dtype (f32, bf16, f16), c of that dtype or f32.
  virtual void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha,
                      float beta, const Tensor& c) = 0;
  // c[M,M] = alpha a[M,K] . a^T + beta d[M,M];  d symmetric, same dtype as c, or empty. c is exactly
  // symmetric: one triangle is computed, both are written. With a symmetric, a . a^T = a^2.
  virtual void symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta,
                                 const Tensor& c) = 0;
  // c[M,M] = alpha a . b + beta d for symmetric a, b [M,M] of which it is known that they commute, so that
  // the product is symmetric: a backend may compute one triangle and mirror it. d as above. The default
  // computes all of it.
  virtual void commuting_product(const Tensor& a, const Tensor& b, float alpha, const Tensor& d, float beta,
                                 const Tensor& c) = 0;
  // c[M,M] += factor I. The default is for memory the host can read.
  virtual void add_identity(const Tensor& c, float factor);

 protected:
  ~MatrixKernels() = default;
};

// ---------------------------------------------------------------------------------------------- elementwise

class ActivationKernels {
 public:
  virtual void activation(Activation act, const Tensor& x, const Tensor& y) = 0;  // may be in place
  // dx = dy * act'(x). `saved`: the OUTPUT y where saves_output(act), else the input x.
  virtual void activation_backward(Activation act, const Tensor& dy, const Tensor& saved,
                                   const Tensor& dx) = 0;  // dx may be dy
  // y[R,F] = silu(x[:, :F]) * x[:, F:];  x [R,2F] = gate | up  (Shazeer 2020)
  virtual void swiglu(const Tensor& x, const Tensor& y) = 0;
  virtual void swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) = 0;
  virtual void add(const Tensor& a, const Tensor& b, const Tensor& y) = 0;  // y = a + b; may be in place
  virtual void scale(const Tensor& x, double factor, const Tensor& y) = 0;  // y = factor x; may be in place

 protected:
  ~ActivationKernels() = default;
};

enum class NormKind : std::uint8_t {
  layer,  // (x - mean) / sqrt(var + eps) * gain + bias   (biased variance)
  rms,    // x / sqrt(mean(x^2) + eps) * gain
};

class NormKernels {
 public:
  // x, y [R,C]; gain, bias [C] master or empty; mean (layer only), rstd [R] master, or empty when not wanted.
  virtual void norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias, double eps,
                    const Tensor& y, const Tensor& mean, const Tensor& rstd) = 0;
  // sum = a + b (rounded to compute), y = norm(sum): exactly add() followed by norm(). sum may be a or b.
  virtual void add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain,
                        const Tensor& bias, double eps, const Tensor& sum, const Tensor& y,
                        const Tensor& mean, const Tensor& rstd) = 0;
  // dx (+)= d norm / dx; dgain, dbias [C] master (+)= if not empty.
  virtual void norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain,
                             const Tensor& mean, const Tensor& rstd, const Tensor& dx, bool accumulate,
                             const Tensor& dgain, const Tensor& dbias, bool accumulate_parameters) = 0;

 protected:
  ~NormKernels() = default;
};

// ---------------------------------------------------------------------------------------------- attention

// A packed row of qkv holds heads*head_dim of q, then kv_heads*head_dim of k, then as much of v.
// Query head h reads key/value head h / (heads / kv_heads).
struct HeadLayout {
  std::int64_t batch = 0, context = 0;
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t rows() const { return batch * context; }
  std::int64_t packed() const { return (heads + 2 * kv_heads) * head_dim; }
  std::int64_t width() const { return heads * head_dim; }
  bool operator==(const HeadLayout&) const = default;
};

enum class RotaryPairs : std::uint8_t {
  halves,       // element i with i + head_dim/2 (GPT-NeoX, speedrun)
  interleaved,  // element 2i with 2i + 1 (the original RoPE paper, Llama's reference code)
};

// What happens to q and k before the attention: QK norm (RMS over each head, no gain), then rotation of pair
// i at position t by the angle whose cosine and sine stand in cos, sin [context, head_dim/2] (master dtype):
//   (x1, x2) -> (x1 cos - sign x2 sin, sign x1 sin + x2 cos),  sign = +1, or -1 (modded-nanogpt's direction)
// Empty cos: no rotation. v passes through.
struct QkTransform {
  bool norm = false;
  double eps = 0;
  Tensor cos, sin;
  RotaryPairs pairs = RotaryPairs::halves;
  int sign = 1;
};

class AttentionKernels {
 public:
  // out [R,packed] may be in (in place). rstd [R, heads+kv_heads] master: written when t.norm, else may be
  // empty.
  virtual void qk_transform(const HeadLayout& layout, const QkTransform& t, const Tensor& in,
                            const Tensor& out, const Tensor& rstd) = 0;
  // From the OUTPUT of the forward pass and rstd: din [R,packed]; din may be dout (in place).
  virtual void qk_transform_backward(const HeadLayout& layout, const QkTransform& t, const Tensor& dout,
                                     const Tensor& out, const Tensor& rstd, const Tensor& din) = 0;
  // out[t] = sum_s softmax_s(scale q_t.k_s) v_s over first_key[t] <= s <= t, out [R, heads*head_dim];
  // lse [batch, heads, context] master = log sum exp of the scaled scores (may be empty).
  // first_key [R] i32, or empty: the first position of its sequence that each query sees; from 0 to the
  // query's own and never lower than the query's before (windows, documents: model/visibility.h). Empty: 0
  // for all. Blocked with an online softmax (Dao et al. 2022): no T x T matrix is ever in memory, and blocks
  // that nobody sees cost nothing.
  virtual void attention(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
                         const Tensor& out, const Tensor& lse) = 0;
  // dqkv [R,packed] overwritten; scores are recomputed from lse.
  virtual void attention_backward(const HeadLayout& layout, double scale, const Tensor& dout,
                                  const Tensor& qkv, const Tensor& first_key, const Tensor& out,
                                  const Tensor& lse, const Tensor& dqkv) = 0;

 protected:
  ~AttentionKernels() = default;
};

// ---------------------------------------------------------------------------------------------- tokens in,
// loss out

// Bounds logits before the softmax. `divisor` and `offset` belong to the sigmoid form only.
struct Softcap {
  enum class Kind : std::uint8_t {
    none,
    tanh,      // cap tanh(z / cap)                          (Gemma 2; modded-nanogpt records 9-18)
    sigmoid,   // cap sigmoid((z + offset) / divisor)        (modded-nanogpt records 19 onward: 30, 0, 7.5)
    rational,  // z cap / sqrt(z^2 + cap^2)                  (modded-nanogpt track 3: 15)
  };
  Kind kind = Kind::none;
  double cap = 0, divisor = 1, offset = 0;
  bool operator==(const Softcap&) const = default;
};
double softcapped(const Softcap& cap, double z);  // one logit, for sampling

class TokenKernels {
 public:
  // out[r] = table[tokens[r]] (+ positions[r % context] if not empty); tables [V,C], [context or more, C]
  // master.
  virtual void embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions,
                         std::int64_t context, const Tensor& out) = 0;
  // dtable[V,C] += , dpositions += (always added to: zero them first). Deterministic.
  virtual void embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context,
                                  const Tensor& dtable, const Tensor& dpositions) = 0;
  // losses[r] = -log softmax(cap(logits[r, :vocab]))[targets[r]], in master dtype; a target of -1 gives loss
  // 0 and gradient 0. logits [R,V] in logits(compute), V >= vocab: columns from vocab on are padding, outside
  // the softmax. dlogits (optional, [R,V] compute or master dtype, may be logits) = gradient_scale * d loss /
  // d logits (0 in the padding).
  virtual void cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab,
                             const Softcap& cap, double gradient_scale, const Tensor& losses,
                             const Tensor& dlogits) = 0;
  // targets[r] = a token drawn from softmax(cap(logits[r, :vocab])) with the random numbers of `key` that
  // belong to row first + r (sample_token.h), where it is not -1. logits and targets as in cross_entropy.
  virtual void sample_targets(const Tensor& logits, std::int64_t vocab, const Softcap& cap, RandomKey key,
                              std::int64_t first, const Tensor& targets) = 0;

 protected:
  ~TokenKernels() = default;
};

// ---------------------------------------------------------------------------------------------- images

// How a square of an image slides over it. Images lie channels last: x [batch * height * width, channels].
struct Patches {
  std::int64_t batch = 0, height = 0, width = 0, channels = 0;
  std::int64_t kernel_height = 1, kernel_width = 1, stride = 1, padding = 0;  // zeros on all four sides
  std::int64_t out_height() const { return (height + 2 * padding - kernel_height) / stride + 1; }
  std::int64_t out_width() const { return (width + 2 * padding - kernel_width) / stride + 1; }
  std::int64_t pixels() const { return batch * height * width; }
  std::int64_t places() const { return batch * out_height() * out_width(); }
  std::int64_t patch() const { return kernel_height * kernel_width * channels; }
  bool operator==(const Patches&) const = default;
};

enum class PoolKind : std::uint8_t { largest, mean };

// Between images and the rows that a matrix product reads: a convolution is unfold() and a product with the
// filters [out channels, patch].
class ImageKernels {
 public:
  // rows [places, patch] = the patch at each place, row by row of the kernel; zero outside of the image. x
  // [pixels, channels] and rows of one compute dtype.
  virtual void unfold(const Patches& p, const Tensor& x, const Tensor& rows) = 0;
  // Its transpose: x = for each pixel the sum, in the order of the kernel's elements, of what lies over it.
  virtual void fold(const Patches& p, const Tensor& rows, const Tensor& x) = 0;
  // y [places, channels] = the largest, or the mean, of each channel over each patch. Patches without
  // padding, that do not overlap: stride >= the kernel's sides.
  virtual void pool(PoolKind kind, const Patches& p, const Tensor& x, const Tensor& y) = 0;
  // dx [pixels, channels]: of the largest its first place, row by row, has the gradient.
  virtual void pool_backward(PoolKind kind, const Patches& p, const Tensor& dy, const Tensor& x,
                             const Tensor& dx) = 0;

  // A convolution as a whole, where the backend has a library with one; the defaults have none. False: there
  // is none for these shapes, and nothing was written: unfold() and a product do the same.
  // y [places,N] = unfold(x) . filters^T;  filters [N, patch]; x, y of the compute dtype
  virtual bool convolution(const Patches& /*p*/, const Tensor& /*x*/, const PreparedMatrix& /*filters*/,
                           const Tensor& /*y*/) {
    return false;
  }
  // dx [pixels, channels] = fold(dy . filters)
  virtual bool convolution_backward_input(const Patches& /*p*/, const Tensor& /*dy*/,
                                          const PreparedMatrix& /*filters*/, const Tensor& /*dx*/) {
    return false;
  }
  // dfilters [N, patch] (+)= dy^T . unfold(x), in master dtype
  virtual bool convolution_backward_filters(const Patches& /*p*/, const Tensor& /*dy*/, const Tensor& /*x*/,
                                            const Tensor& /*dfilters*/, bool /*accumulate*/) {
    return false;
  }

 protected:
  ~ImageKernels() = default;
};

}  // namespace spectrain
