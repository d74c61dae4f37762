#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/formula.h"
#include "kernels/fp8.h"
#include "kernels/random.h"
#include "kernels/tensor.h"

// Every kernel the program has, grouped by family. A backend implements all of them; one missing is a compile
// error. Conventions that hold throughout:
//
//   R         rows of an activation: batch * context; x [R,C] is row-major and contiguous
//   compute   the dtype of activations and their gradients: f32 or bf16 (f64 in the tests' reference backend)
//   master    the dtype of parameters, their gradients and statistics: f32 (f64 in the reference backend)
//   accumulate  true: the result is added to what the output holds; false: the output is overwritten,
//   whatever
//               it held (uninitialised memory included)
//
// Sums are taken in at least float32. Every kernel is deterministic: the same inputs, thread count and
// machine give the same bits. Output tensors must not overlap inputs unless a comment says "may be in place".
// A device may do the work later: what is in host memory (the doubles some functions return, copy_to_host) is
// there when the function returns, everything else in the order in which it was asked for.
// A dtype or shape a kernel does not support throws std::logic_error naming it (the caller's mistake).

namespace spectrain {

// ---------------------------------------------------------------------------------------------- sizes

// What a memory plan asks of a backend. Also answered for a device that is not there (kernels/cuda/sizes.h).
class BackendSizes {
 public:
  virtual std::string_view name() const = 0;  // "cpu", "cuda", "reference"
  virtual DType master() const { return DType::f32; }
  // In which dtype logits for cross_entropy() should be made.
  virtual DType logits(DType /*compute*/) const { return DType::f32; }
  // Of a PreparedMatrix.
  virtual std::size_t prepared_bytes(Shape shape, DType compute, bool backward) const = 0;
  // Memory the backend keeps for its own use once products have run (packing buffers, work memory of
  // libraries): it then counts among the allocated bytes, and a memory plan adds it.
  virtual std::size_t working_bytes() const { return 0; }
  // How many matrices of this shape one call of a batched product should get, at most: more do not make it
  // faster.
  virtual std::int64_t matrices_at_once(Shape /*matrix*/) const { return 1; }
  // Memory that factorisations (FactorKernels) of batches of this shape, [B,m,n] or [m,n], take from the
  // backend when one is first computed, and keep for the next; of several shapes, the most that one takes.
  virtual std::size_t factor_bytes(Shape batch) const = 0;

 protected:
  ~BackendSizes() = default;
};

// ---------------------------------------------------------------------------------------------- memory

// Memory owned by a backend, freed with the object. Aligned to 64 bytes; contents are uninitialised.
class Buffer {
 public:
  virtual ~Buffer() = default;
  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  Tensor view(DType dtype, Shape shape, std::size_t offset = 0) const;  // throws when it would not fit

 protected:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Work recorded once, to be done again without the host's asking for each kernel (a CUDA graph).
class Replay {
 public:
  virtual ~Replay() = default;
  virtual void run() = 0;
};

class MemoryKernels {
 public:
  // Throws Error "no room for 1.2 GB of <name> on cpu (3.0 GB in use)" when there is none.
  virtual std::unique_ptr<Buffer> allocate(std::size_t bytes, std::string_view name) = 0;
  virtual std::size_t allocated_bytes() const = 0;  // sum over live buffers and prepared matrices
  virtual void fill(const Tensor& x, double value) = 0;
  virtual void copy(const Tensor& from, const Tensor& to) = 0;  // same numel; converts between float dtypes
  virtual void copy_from_host(const Tensor& to, const void* from) = 0;  // to.bytes() bytes, same dtype
  virtual void copy_to_host(void* to, const Tensor& from) = 0;
  virtual void synchronize() = 0;                      // returns when everything asked for so far is done
  virtual bool asynchronous() const { return false; }  // whether calls return before their work is done
  // Records what `work` asks for, without doing it. Null where a backend has nothing to gain from that (then
  // `work` is not called). The work must have run once before, in the ordinary way, with the same tensors; it
  // may not return anything to the host. Numbers handed to kernels are recorded as they are now.
  virtual std::unique_ptr<Replay> record(const std::function<void()>& /*work*/) { return nullptr; }

 protected:
  ~MemoryKernels() = default;
};

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
  // dW[N,K] (+)= dy[R,N]^T . x[R,K];  dW in master dtype
  virtual void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                      bool accumulate) = 0;
  // db[N] (+)= sum over rows of dy[R,N];  db in master dtype
  virtual void bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) = 0;

  // y = fp8(scale x) / scale: x as a product of eight-bit floats would read it (fp8.h). x, y compute or
  // master dtype; may be in place.
  virtual void round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) = 0;

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

// ---------------------------------------------------------------------------------------------- optimizer

// One AdamW element: m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
// w = w (1 - lr decay) - lr (m / c1) / (sqrt(v / c2) + eps),  c = 1 - b^step  (Loshchilov, Hutter 2019)
struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;      // counts from 1
  double gradient_scale = 1;  // g is multiplied by this first (clipping)
};

class OptimizerKernels {
 public:
  virtual void adamw(const AdamWStep& s, const Tensor& w, const Tensor& g, const Tensor& m,
                     const Tensor& v) = 0;
  // m = mu m + (1-mu) g', g' = gradient_scale g;  u = nesterov ? mu m + (1-mu) g' : m.  All [n] master.
  virtual void ema_momentum(const Tensor& g, double gradient_scale, double mu, bool nesterov, const Tensor& m,
                            const Tensor& u) = 0;
  // w = keep w - step u;  u f32 or bf16, on a GPU also f16. (decoupled decay: keep = 1 - lr decay; step = lr
  // * shape scale)
  virtual void apply_update(const Tensor& w, double keep, double step, const Tensor& u) = 0;
  // For each matrix of x [B, rows, cols] (or the one of x [rows, cols]), with n its Frobenius norm, in f32:
  // y = x / (safety max(n, 1e-15)).  y of any float dtype; may be in place.
  virtual void normalize(const Tensor& x, double safety, const Tensor& y) = 0;
  // y = a x + b y  (x, y of any float dtypes)
  virtual void axpby(double a, const Tensor& x, double b, const Tensor& y) = 0;
  // y[C,R] = x[R,C]^T  (x, y of any float dtypes). The default is for memory the host can read; a backend on
  // a device overrides it.
  virtual void transpose(const Tensor& x, const Tensor& y);

 protected:
  ~OptimizerKernels() = default;
};

// Formulas over the elements of tensors (formula.h). They run over a matrix [R,C], the shape of the tensors
// with Extent::elements: all dimensions but the last, and the last (rank 1: [1,n]). Those are f32 or bf16, on
// a GPU also f16 (f64 in the reference); the others, and results of reduce(), master dtype. Arithmetic is
// float32 (float64 in the reference), with one rounding into the tensor's dtype. Tensors of one call are the
// same memory or do not overlap.
class FormulaKernels {
 public:
  // Carries out all assignments of f for every element. numbers and tensors: as many as f names.
  virtual void evaluate(const Formula& f, std::span<const double> numbers,
                        std::span<const Tensor> tensors) = 0;
  // out = the sums of f.sum_of(): over each row (result rows: out [R]), over each column (columns: out [C]),
  // or over all (one: out [1]). The order of the additions depends on R and C alone, not on the number of
  // threads. out is overwritten. f's assignments are not carried out.
  virtual void reduce(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors,
                      Extent result, const Tensor& out) = 0;

  void evaluate(const Formula& f, std::initializer_list<double> numbers,
                std::initializer_list<Tensor> tensors) {
    evaluate(f, std::span(numbers.begin(), numbers.size()), std::span(tensors.begin(), tensors.size()));
  }
  void reduce(const Formula& f, std::initializer_list<double> numbers, std::initializer_list<Tensor> tensors,
              Extent result, const Tensor& out) {
    reduce(f, std::span(numbers.begin(), numbers.size()), std::span(tensors.begin(), tensors.size()), result,
           out);
  }

 protected:
  ~FormulaKernels() = default;
};

// Factorisations, in the master dtype, of one matrix or of each of a batch (rank 3, and every other tensor
// with that first dimension). LAPACK on the CPU, cuSOLVER on a GPU. Throw Error when a matrix holds NaN or
// infinity or an iteration does not converge; results are then undefined. The host waits for the outcome,
// once for each call, so that factorisations cannot be recorded.
//
// Signs, which a factorisation leaves open, are fixed: of an eigenvector, and of a column of u, the component
// of largest magnitude, the first of equals, is positive; the row of vt follows its column of u.
class FactorKernels {
 public:
  // a [n,n] symmetric (one triangle is read) -> a = V diag(values) V^T: values [n] ascending, column j of
  // vectors [n,n] belongs to the j-th. vectors may be a (in place).
  virtual void eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) = 0;
  // a [m,n], m >= n, becomes Q [m,n] of a = Q R: orthonormal columns, R upper triangular with a diagonal >= 0
  // (which makes Q unique where a has rank n).
  virtual void orthonormal_columns(const Tensor& a) = 0;
  // a [m,n] -> a = U diag(s) Vt: s [r] descending, r = min(m,n); u [m,r], vt [r,n], both empty: s alone. a's
  // contents are lost.
  virtual void svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) = 0;

 protected:
  ~FactorKernels() = default;
};

// Some rows, or columns, of a matrix.
class RowKernels {
 public:
  // The `count` rows with the highest scores [R] master, of equal ones the earlier: their indices [count]
  // i32, ascending. NaN is lower than every other score.
  virtual void top_rows(const Tensor& scores, const Tensor& indices) = 0;
  // y[i] = x[indices[i]];  x [R,C], y [count,C] any float dtypes (f16 on a GPU alone), indices in [0,R)
  virtual void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) = 0;
  // x[indices[i]] = y[i]; the other rows stay. No index twice.
  virtual void scatter_rows(const Tensor& y, const Tensor& indices, const Tensor& x) = 0;
  // y[:, y_first : y_first + count] = (accumulate: +=) x[:, x_first : x_first + count];  x [R,Cx], y [R,Cy]
  // of one dtype, compute or master; x empty: zeros.
  virtual void copy_columns(const Tensor& x, std::int64_t x_first, const Tensor& y, std::int64_t y_first,
                            std::int64_t count, bool accumulate) = 0;

 protected:
  ~RowKernels() = default;
};

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

class ReductionKernels {
 public:
  virtual double sum_of_squares(const Tensor& x) = 0;  // in double, fixed order; NaN or inf if any element is
  virtual double sum(const Tensor& x) = 0;             // in double, fixed order
  virtual bool all_finite(const Tensor& x) = 0;
  // The same sums, added to total [1] f64 in the backend's memory: nobody waits for them.
  // (The defaults are for memory the host can read.)
  virtual void add_sum(const Tensor& x, const Tensor& total);
  virtual void add_squares(std::span<const Tensor> xs, const Tensor& total);  // in the order of xs

 protected:
  ~ReductionKernels() = default;
};

class RandomKernels {
 public:
  // Element i gets a value that depends on (key, i) alone, the same bits on every backend (random.h).
  virtual void fill_uniform(const Tensor& x, RandomKey key, float low, float high) = 0;
  virtual void fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) = 0;

 protected:
  ~RandomKernels() = default;
};

// ---------------------------------------------------------------------------------------------- the whole

class Backend : public BackendSizes,
                public MemoryKernels,
                public MatrixKernels,
                public ActivationKernels,
                public NormKernels,
                public AttentionKernels,
                public TokenKernels,
                public OptimizerKernels,
                public FormulaKernels,
                public FactorKernels,
                public RowKernels,
                public ImageKernels,
                public ReductionKernels,
                public RandomKernels {
 public:
  virtual ~Backend() = default;
  virtual std::string description() const = 0;  // "AMD EPYC, 2 threads, AVX-512 + bf16, oneDNN 2.6.3"
  // What the user should know of how it works here (a library that is missing, a slow path that was taken):
  // what is new since the last call, whole sentences.
  virtual std::vector<std::string> notes() { return {}; }
  // A name, for profilers, for what is asked for until end_range(). Ranges may be nested.
  virtual void begin_range(const char* /*name*/) {}
  virtual void end_range() {}
  void normalize(const Tensor& x, double safety, const Tensor& y) override;  // matrix by matrix
  void commuting_product(const Tensor& a, const Tensor& b, float alpha, const Tensor& d, float beta,
                         const Tensor& c) override;
};

// What there is of a backend that may be missing is in cuda_plugin.h.
struct CpuOptions {
  int threads = 0;         // 0: the cores this process may run on
  bool use_onednn = true;  // false: own matrix products only (what a build without oneDNN always does)
};
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options = {});

}  // namespace spectrain
