#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/convolution_shape.h"
#include "kernels/cuda/options.h"
#include "kernels/cuda/sizes.h"

// The CUDA backend. One .cu (kernels) or .cpp (calls of libraries) per family implements the members declared
// here. Everything runs in one stream, in the order of the calls; a second stream carries inputs to the
// device.

namespace spectrain {

class Products;  // products.h
struct Product;

class CudaBackend final : public Backend {
 public:
  // Throws Error when the device cannot be used.
  explicit CudaBackend(const CudaOptions& options);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  std::string description() const override;
  std::vector<std::string> notes() override;
  void begin_range(const char* name) override;
  void end_range() override;
  DType logits(DType compute) const override { return sizes_.logits(compute); }
  std::size_t prepared_bytes(Shape shape, DType compute, bool backward) const override {
    return sizes_.prepared_bytes(shape, compute, backward);
  }
  std::size_t prepared_fp8_bytes(Shape shape, DType compute) const override {
    return sizes_.prepared_fp8_bytes(shape, compute);
  }
  std::size_t working_bytes() const override { return sizes_.working_bytes(); }
  std::int64_t matrices_at_once(Shape matrix) const override { return sizes_.matrices_at_once(matrix); }
  std::size_t factor_bytes(Shape batch) const override { return sizes_.factor_bytes(batch); }

  // ---- for the families
  cudaStream_t stream() const { return stream_; }
  const CudaOptions& options() const { return options_; }
  int multiprocessors() const { return multiprocessors_; }
  int capability() const { return capability_; }                     // 90 for compute capability 9.0
  std::size_t shared_memory_limit() const { return shared_limit_; }  // of one block, bytes
  // Blocks for `work` pieces, each done by one block: all of them, but no more than `per_multiprocessor` for
  // each multiprocessor (kernels loop over the rest), and no more than options().max_blocks.
  unsigned blocks_for(std::int64_t work, int per_multiprocessor = 8) const;
  // Memory for one kernel family's partial results, valid until the next call: kernels that use it follow
  // each other in the stream. At least so many bytes, aligned to 256.
  void* scratch(std::size_t bytes);
  // The host waits for everything in the stream, or for an event of it: the only places where it does, apart
  // from buffers' ends.
  void wait();
  void wait_for(cudaEvent_t event);
  std::int64_t waits() const { return waits_; }  // how often it did
  bool recording() const { return recording_; }

  // memory.cu
  std::unique_ptr<Buffer> allocate(std::size_t bytes, std::string_view name) override;
  std::size_t allocated_bytes() const override { return allocated_; }
  void fill(const Tensor& x, double value) override;
  void copy(const Tensor& from, const Tensor& to) override;
  void copy_from_host(const Tensor& to, const void* from) override;
  void copy_to_host(void* to, const Tensor& from) override;
  std::unique_ptr<LateRead> late_read(std::size_t bytes) override;
  void synchronize() override { wait(); }
  bool asynchronous() const override { return true; }
  std::unique_ptr<Replay> record(const std::function<void()>& work) override;

  // matrices.cpp: through Products; matrix_kernels.cu: bias_gradient
  std::unique_ptr<PreparedMatrix> prepare(const Tensor& master, DType compute, bool backward) override;
  void refresh(PreparedMatrix& matrix, const Tensor& master) override;
  std::vector<std::byte> contents(const PreparedMatrix& matrix) const override;
  void linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act, const Tensor& pre,
              const Tensor& y) override;
  void linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                             bool accumulate) override;
  void linear_activation_backward(const Tensor& dy, const PreparedMatrix& w, Activation act,
                                  const Tensor& saved, const Tensor& dx) override;
  void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw, bool accumulate) override;
  void bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) override;
  void round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) override;
  void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha, float beta,
              const Tensor& c) override;
  // fp8_products.cpp
  std::unique_ptr<PreparedMatrix> prepare_fp8(double scale, const Tensor& values, DType compute) override;
  void refresh_fp8(PreparedMatrix& w, const Tensor& values) override;
  Fp8Operand encode_fp8(Fp8 format, double scale, const Tensor& x, const PreparedMatrix& w,
                        const Tensor& memory) override;
  void linear_fp8(const Fp8Operand& x, const PreparedMatrix& w, const Tensor& bias, const Tensor& y) override;
  void linear_backward_input_fp8(const Fp8Operand& dy, const PreparedMatrix& w, const Tensor& dx,
                                 bool accumulate) override;
  void linear_backward_weight_fp8(const Fp8Operand& dy, const Fp8Operand& x, const Tensor& dw,
                                  bool accumulate) override;
  // symmetric_product.cu
  void symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta, const Tensor& c) override;
  void commuting_product(const Tensor& a, const Tensor& b, float alpha, const Tensor& d, float beta,
                         const Tensor& c) override;
  void add_identity(const Tensor& c, float factor) override;

  // activation.cu
  void activation(Activation act, const Tensor& x, const Tensor& y) override;
  void activation_backward(Activation act, const Tensor& dy, const Tensor& saved, const Tensor& dx) override;
  void swiglu(const Tensor& x, const Tensor& y) override;
  void swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) override;
  void add(const Tensor& a, const Tensor& b, const Tensor& y) override;
  void scale(const Tensor& x, double factor, const Tensor& y) override;

  // norm.cu
  void norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias, double eps,
            const Tensor& y, const Tensor& mean, const Tensor& rstd) override;
  void add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain, const Tensor& bias,
                double eps, const Tensor& sum, const Tensor& y, const Tensor& mean,
                const Tensor& rstd) override;
  void norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& mean,
                     const Tensor& rstd, const Tensor& dx, bool accumulate, const Tensor& dgain,
                     const Tensor& dbias, bool accumulate_parameters) override;

  // qk_transform.cu, attention.cpp
  void qk_transform(const HeadLayout& layout, const QkTransform& t, const Tensor& in, const Tensor& out,
                    const Tensor& rstd) override;
  void qk_transform_backward(const HeadLayout& layout, const QkTransform& t, const Tensor& dout,
                             const Tensor& out, const Tensor& rstd, const Tensor& din) override;
  void attention(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
                 const Tensor& out, const Tensor& lse) override;
  void attention_backward(const HeadLayout& layout, double scale, const Tensor& dout, const Tensor& qkv,
                          const Tensor& first_key, const Tensor& out, const Tensor& lse,
                          const Tensor& dqkv) override;

  // embedding.cu, cross_entropy.cu, sample_targets.cu
  void embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions, std::int64_t context,
                 const Tensor& out) override;
  void embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context,
                          const Tensor& dtable, const Tensor& dpositions) override;
  void cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab, const Softcap& cap,
                     double gradient_scale, const Tensor& losses, const Tensor& dlogits) override;
  void sample_targets(const Tensor& logits, std::int64_t vocab, const Softcap& cap, RandomKey key,
                      std::int64_t first, const Tensor& targets) override;

  // update.cu, transpose.cu
  void adamw(const AdamWStep& s, std::span<const AdamWPart> parts) override;
  void ema_momentum(const MomentumStep& s, std::span<const MomentumPart> parts) override;
  void apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts,
                    const Tensor& verdict) override;
  void clip_factor(const Tensor& squares, const Tensor& loss, double clip, const Tensor& verdict) override;
  void normalize(const Tensor& x, double safety, const Tensor& y) override;
  void axpby(double a, const Tensor& x, double b, const Tensor& y) override;
  void transpose(const Tensor& x, const Tensor& y) override;

  // formula.cu, formula_reduce.cu
  using FormulaKernels::evaluate, FormulaKernels::reduce;
  void evaluate(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors) override;
  void reduce(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors,
              Extent result, const Tensor& out) override;

  // factors.cpp, rows.cu
  void eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) override;
  void orthonormal_columns(const Tensor& a) override;
  void svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) override;
  void top_rows(const Tensor& scores, const Tensor& indices) override;
  void gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) override;
  void scatter_rows(const Tensor& y, const Tensor& indices, const Tensor& x) override;
  void copy_columns(const Tensor& x, std::int64_t x_first, const Tensor& y, std::int64_t y_first,
                    std::int64_t count, bool accumulate) override;
  void unfold(const Patches& p, const Tensor& x, const Tensor& rows) override;
  void fold(const Patches& p, const Tensor& rows, const Tensor& x) override;
  void pool(PoolKind kind, const Patches& p, const Tensor& x, const Tensor& y) override;
  void pool_backward(PoolKind kind, const Patches& p, const Tensor& dy, const Tensor& x,
                     const Tensor& dx) override;

  // convolution.cpp
  bool convolution(const Patches& p, const Tensor& x, const PreparedMatrix& filters,
                   const Tensor& y) override;
  bool convolution_backward_input(const Patches& p, const Tensor& dy, const PreparedMatrix& filters,
                                  const Tensor& dx) override;
  bool convolution_backward_filters(const Patches& p, const Tensor& dy, const Tensor& x,
                                    const Tensor& dfilters, bool accumulate) override;

  // reduction.cu, random.cu
  double sum_of_squares(const Tensor& x) override;
  double sum(const Tensor& x) override;
  bool all_finite(const Tensor& x) override;
  void add_sum(const Tensor& x, const Tensor& total) override;
  void add_squares(std::span<const Tensor> xs, const Tensor& total) override;
  void fill_uniform(const Tensor& x, RandomKey key, float low, float high) override;
  void fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) override;
  void round_stochastic(const Tensor& x, RandomKey key, std::int64_t first, const Tensor& y) override;

 private:
  friend class CudaBuffer;
  Products& products();
  void multiply_fp8(const Product& product, double scale_a, double scale_b);  // fp8_products.cpp
  void note_fp8(const std::string& why);
  struct Inbox;      // pinned memory through which small inputs go to the device (memory.cu)
  struct Attention;  // plans and workspace of the attention (attention.cpp)
  Attention& attention_state();
  struct Convolutions;  // plans of convolutions (convolution.h)
  Convolutions& convolutions();
  bool convolve(ConvolutionPass pass, const ConvolutionShape& shape, const Tensor& images,
                const Tensor& filters, const Tensor& places, bool accumulate);
  struct Factors;  // the library and work memory of factorisations (factors.h)
  Factors& factors();

  CudaOptions options_;
  CudaSizes sizes_;
  int multiprocessors_ = 0, capability_ = 0;
  std::size_t shared_limit_ = 0, total_memory_ = 0;
  std::string description_;
  cudaStream_t stream_ = nullptr;
  std::size_t allocated_ = 0;
  std::int64_t waits_ = 0;
  bool recording_ = false;
  std::vector<void*> scratch_;  // the newest is the largest
  std::size_t scratch_bytes_ = 0;
  double* answer_ = nullptr;  // pinned: where small results come back
  std::unique_ptr<Inbox> inbox_;
  std::unique_ptr<Products> products_;
  std::vector<std::string> notes_;
  std::vector<std::string> fp8_notes_;  // why eight-bit floats are not multiplied as such
  std::set<std::string> fp8_noted_;     // each once
  std::unique_ptr<Attention> attention_;
  std::unique_ptr<Convolutions> convolutions_;
  std::unique_ptr<Factors> factors_;
};

}  // namespace spectrain
