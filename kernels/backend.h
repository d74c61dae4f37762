#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend_model.h"
#include "kernels/backend_update.h"
#include "kernels/random.h"
#include "kernels/tensor.h"

// Every kernel the program has, grouped by family: those of models in backend_model.h, those of optimizers in
// backend_update.h, the rest here. A backend implements all of them; one missing is a compile error.
// Conventions that hold throughout:
//
//   R         rows of an activation: batch * context; x [R,C] is row-major and contiguous
//   compute   the dtype of activations and their gradients: f32 or bf16 (f64 in the tests' reference backend)
//   master    the dtype of parameters, their gradients and statistics: f32 (f64 in the reference backend)
//   accumulate  true: the result is added to what the output holds; false: the output is overwritten,
//               whatever it held (uninitialised memory included)
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
  // Of one made by prepare_fp8().
  virtual std::size_t prepared_fp8_bytes(Shape shape, DType compute) const;
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

// A few numbers that the host reads later than they are made.
class LateRead {
 public:
  virtual ~LateRead() = default;
  // x, of the size it was made for, as what is asked for before this call leaves it.
  virtual void ask(const Tensor& x) = 0;
  // Those of the last ask(), once they are here; until the next ask().
  virtual const void* wait() = 0;
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
  virtual std::unique_ptr<LateRead> late_read(std::size_t bytes);
  virtual void synchronize() = 0;                      // returns when everything asked for so far is done
  virtual bool asynchronous() const { return false; }  // whether calls return before their work is done
  // Records what `work` asks for, without doing it. Null where a backend has nothing to gain from that, or
  // something refuses to be recorded (notes() says what): then nothing was done. The work must have run once
  // before, in the ordinary way, with the same tensors; it may not return anything to the host. Numbers handed
  // to kernels are recorded as they are now; for others each time there is Number::late.
  virtual std::unique_ptr<Replay> record(const std::function<void()>& /*work*/) { return nullptr; }

 protected:
  ~MemoryKernels() = default;
};

// ---------------------------------------------------------------------------------------------- sums, random
// numbers

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
  // y[i] = x[i] rounded stochastically, with the random bits of element first + i (stochastic_rounding.h):
  // the same bits on every backend, however a tensor is cut.  x master or bf16, y bf16 (f64 in the reference)
  virtual void round_stochastic(const Tensor& x, RandomKey key, std::int64_t first, const Tensor& y) = 0;

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
  void linear_activation_backward(const Tensor& dy, const PreparedMatrix& w, Activation act,
                                  const Tensor& saved, const Tensor& dx) override;
  void normalize(const Tensor& x, double safety, const Tensor& y) override;  // matrix by matrix
  void commuting_product(const Tensor& a, const Tensor& b, float alpha, const Tensor& d, float beta,
                         const Tensor& c) override;

  // On rounded numbers (backend_fp8.cpp).
  std::unique_ptr<PreparedMatrix> prepare_fp8(double scale, const Tensor& values, DType compute) override;
  void refresh_fp8(PreparedMatrix& w, const Tensor& values) override;
  Fp8Operand encode_fp8(Fp8 format, double scale, const Tensor& x, const PreparedMatrix& w,
                        const Tensor& memory) override;
  void linear_fp8(const Fp8Operand& x, const PreparedMatrix& w, const Tensor& bias, const Tensor& y) override;
  void linear_backward_input_fp8(const Fp8Operand& dy, const PreparedMatrix& w, const Tensor& dx,
                                 bool accumulate) override;
  void linear_backward_weight_fp8(const Fp8Operand& dy, const Fp8Operand& x, const Tensor& dw,
                                  bool accumulate) override;
};

// What there is of a backend that may be missing is in cuda_plugin.h.
struct CpuOptions {
  int threads = 0;         // 0: the cores this process may run on
  bool use_onednn = true;  // false: own matrix products only (what a build without oneDNN always does)
};
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options = {});

}  // namespace spectrain
