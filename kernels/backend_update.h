#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "kernels/formula.h"
#include "kernels/tensor.h"

// The kernels of optimizers, and what others make of their formulas, rows and factorisations. A part of
// backend.h, which has the conventions.

namespace spectrain {

// ---------------------------------------------------------------------------------------------- optimizer

// A number that kernels take: `value`, or value * late where that is read when they run: late [1] f64 lies in
// the backend's memory. For what the host has not waited for, and for recorded work that is to find another
// number there each time.
struct Number {
  double value = 1;
  Tensor late = {};
  Number() = default;
  Number(double number, const Tensor& unseen = {}) : value(number), late(unseen) {}
};
// The product, for backends in memory that the host can read.
double seen(const Number& number);

// gradient_scale: what gradients are multiplied by before they count (clip_factor() below). Where it is NaN,
// a call changes nothing.

// One AdamW element: m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;
// w = w (1 - lr decay) - lr (m / c1) / (sqrt(v / c2) + eps),  c = 1 - b^step  (Loshchilov, Hutter 2019)
struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0;
  std::int64_t step = 1;  // counts from 1
  Number gradient_scale = {};
  // Empty, or [3] f64 in the backend's memory: the rates of a step, in place of those of lr and step.
  Tensor late_rates = {};
  static constexpr std::size_t kRates = 3;
  std::array<double, kRates> rates() const;  // lr, c1, c2
};

// One element of momentum: m = mu m + (1-mu) g', g' = gradient_scale weight g;
// u = nesterov ? mu m + (1-mu) g' : m.
struct MomentumStep {
  Number mu = 0.95;
  bool nesterov = true;
  Number weight = {};  // 1 / (1 - mu) makes a sum of the average
  Number gradient_scale = {};
};

// What one call updates of each of many tensors: a model has a hundred small ones, which a device does better
// together than one by one. All of one part are [n], each part has an n of its own.
struct AdamWPart {
  Tensor w, g, m, v;  // master
};
struct MomentumPart {
  Tensor g, m;  // master
  Tensor u;     // f32 or bf16, on a GPU also f16; of one dtype in all parts
};
struct UpdatePart {
  Tensor w;  // master
  Tensor u;  // as above
};

class OptimizerKernels {
 public:
  virtual void adamw(const AdamWStep& s, std::span<const AdamWPart> parts) = 0;
  virtual void ema_momentum(const MomentumStep& s, std::span<const MomentumPart> parts) = 0;
  // w = keep w - step u (decoupled decay: keep = 1 - lr decay; step = lr * shape scale). verdict: empty, or
  // [1] f64 in the backend's memory: NaN there, and nothing changes.
  virtual void apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts,
                            const Tensor& verdict) = 0;
  void adamw(const AdamWStep& s, std::initializer_list<AdamWPart> parts) {
    adamw(s, std::span(parts.begin(), parts.size()));
  }
  void ema_momentum(const MomentumStep& s, std::initializer_list<MomentumPart> parts) {
    ema_momentum(s, std::span(parts.begin(), parts.size()));
  }
  void apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts) {
    apply_update(keep, step, parts, Tensor());
  }
  void apply_update(const Number& keep, const Number& step, std::initializer_list<UpdatePart> parts,
                    const Tensor& verdict = {}) {
    apply_update(keep, step, std::span(parts.begin(), parts.size()), verdict);
  }
  // What a step's gradients are to be multiplied by, found without the host: squares [1] f64, the sum of
  // their squares, loss [1] f64, verdict [2] f64:
  //   verdict[1] = 1 where the loss is not finite, else as it was (0 at first: such a run is over)
  //   verdict[0] = NaN where squares is not finite or verdict[1] is 1, else the clip factor: clip / n of
  //                n = sqrt(squares) where n > clip > 0, else 1
  virtual void clip_factor(const Tensor& squares, const Tensor& loss, double clip, const Tensor& verdict);
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

}  // namespace spectrain
