#pragma once

#include <atomic>

#include "kernels/backend.h"

// The CPU backend. One .cpp per family implements the members declared here; OpenMP with few, coarse regions
// (the program sets passive waiting before it starts, see train/main.cpp).

namespace spectrain {

class HostFactors;  // kernels/host_factors.h

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options);
  ~CpuBackend() override;

  std::string_view name() const override { return "cpu"; }
  std::string description() const override;
  int threads() const { return threads_; }

  // memory.cpp
  std::unique_ptr<Buffer> allocate(std::size_t bytes, std::string_view name) override;
  std::size_t allocated_bytes() const override { return allocated_; }
  std::size_t working_bytes() const override;  // matrix_product.cpp
  void fill(const Tensor& x, double value) override;
  void copy(const Tensor& from, const Tensor& to) override;
  void copy_from_host(const Tensor& to, const void* from) override;
  void copy_to_host(void* to, const Tensor& from) override;
  void synchronize() override {}

  // matrix_*.cpp
  std::unique_ptr<PreparedMatrix> prepare(const Tensor& master, DType compute, bool backward) override;
  std::size_t prepared_bytes(Shape shape, DType compute, bool backward) const override;
  void refresh(PreparedMatrix& matrix, const Tensor& master) override;
  std::vector<std::byte> contents(const PreparedMatrix& matrix) const override;
  void linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act, const Tensor& pre,
              const Tensor& y) override;
  void linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                             bool accumulate) override;
  void linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw, bool accumulate) override;
  void bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) override;
  void round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) override;
  void matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha, float beta,
              const Tensor& c) override;
  void symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta, const Tensor& c) override;

  // activation.cpp
  void activation(Activation act, const Tensor& x, const Tensor& y) override;
  void activation_backward(Activation act, const Tensor& dy, const Tensor& saved, const Tensor& dx) override;
  void swiglu(const Tensor& x, const Tensor& y) override;
  void swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) override;
  void add(const Tensor& a, const Tensor& b, const Tensor& y) override;
  void scale(const Tensor& x, double factor, const Tensor& y) override;

  // norm.cpp
  void norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias, double eps,
            const Tensor& y, const Tensor& mean, const Tensor& rstd) override;
  void add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain, const Tensor& bias,
                double eps, const Tensor& sum, const Tensor& y, const Tensor& mean,
                const Tensor& rstd) override;
  void norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& mean,
                     const Tensor& rstd, const Tensor& dx, bool accumulate, const Tensor& dgain,
                     const Tensor& dbias, bool accumulate_parameters) override;

  // qk_transform.cpp, attention.cpp
  void qk_transform(const HeadLayout& layout, const QkTransform& t, const Tensor& in, const Tensor& out,
                    const Tensor& rstd) override;
  void qk_transform_backward(const HeadLayout& layout, const QkTransform& t, const Tensor& dout,
                             const Tensor& out, const Tensor& rstd, const Tensor& din) override;
  void attention(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
                 const Tensor& out, const Tensor& lse) override;
  void attention_backward(const HeadLayout& layout, double scale, const Tensor& dout, const Tensor& qkv,
                          const Tensor& first_key, const Tensor& out, const Tensor& lse,
                          const Tensor& dqkv) override;

  // embedding.cpp, cross_entropy.cpp, sample_targets.cpp
  void embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions, std::int64_t context,
                 const Tensor& out) override;
  void embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context,
                          const Tensor& dtable, const Tensor& dpositions) override;
  void cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab, const Softcap& cap,
                     double gradient_scale, const Tensor& losses, const Tensor& dlogits) override;
  void sample_targets(const Tensor& logits, std::int64_t vocab, const Softcap& cap, RandomKey key,
                      std::int64_t first, const Tensor& targets) override;

  // update.cpp
  void adamw(const AdamWStep& s, std::span<const AdamWPart> parts) override;
  void ema_momentum(const MomentumStep& s, std::span<const MomentumPart> parts) override;
  void apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts,
                    const Tensor& verdict) override;
  void axpby(double a, const Tensor& x, double b, const Tensor& y) override;
  void transpose(const Tensor& x, const Tensor& y) override;  // transpose.cpp

  // formula.cpp
  using FormulaKernels::evaluate, FormulaKernels::reduce;
  void evaluate(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors) override;
  void reduce(const Formula& f, std::span<const double> numbers, std::span<const Tensor> tensors,
              Extent result, const Tensor& out) override;

  // factors.cpp, rows.cpp
  void eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) override;
  void orthonormal_columns(const Tensor& a) override;
  void svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) override;
  std::size_t factor_bytes(Shape batch) const override;
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

  // reduction.cpp, random.cpp
  double sum_of_squares(const Tensor& x) override;
  double sum(const Tensor& x) override;
  bool all_finite(const Tensor& x) override;
  void fill_uniform(const Tensor& x, RandomKey key, float low, float high) override;
  void fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) override;
  void round_stochastic(const Tensor& x, RandomKey key, std::int64_t first, const Tensor& y) override;

  struct Matrices;  // the state of the matrix products (oneDNN primitives, packing buffers): matrix_*.cpp

 private:
  friend class CpuBuffer;
  Matrices& matrices();  // made at the first matrix product, for the instruction set of that moment
  int threads_ = 1;
  bool use_onednn_ = true;
  std::atomic<std::size_t> allocated_{0};
  std::unique_ptr<Matrices> matrices_;

  HostFactors& factors();
  std::unique_ptr<HostFactors> factors_;

  float* scratch(std::int64_t floats);  // at least so many, kept from call to call
  std::unique_ptr<Buffer> scratch_;
};

}  // namespace spectrain
