#pragma GCC diagnostic ignored "-Wunused-parameter"
// Temporary: each family leaves this file as its own file is written.
#include "kernels/cpu/cpu_backend.h"

namespace spectrain {



// matrix_*.cpp
std::unique_ptr<PreparedMatrix> CpuBackend::prepare(const Tensor& master, DType compute, bool backward) { throw std::logic_error("prepare: not here yet"); }
std::size_t CpuBackend::prepared_bytes(Shape shape, DType compute, bool backward) const { throw std::logic_error("prepared_bytes: not here yet"); }
void CpuBackend::refresh(PreparedMatrix& matrix, const Tensor& master) { throw std::logic_error("refresh: not here yet"); }
void CpuBackend::linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act, const Tensor& pre, const Tensor& y) { throw std::logic_error("linear: not here yet"); }
void CpuBackend::linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx, bool accumulate) { throw std::logic_error("linear_backward_input: not here yet"); }
void CpuBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw, bool accumulate) { throw std::logic_error("linear_backward_weight: not here yet"); }
void CpuBackend::bias_gradient(const Tensor& dy, const Tensor& db, bool accumulate) { throw std::logic_error("bias_gradient: not here yet"); }
void CpuBackend::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha, float beta, const Tensor& c) { throw std::logic_error("matmul: not here yet"); }
void CpuBackend::symmetric_product(const Tensor& a, float alpha, const Tensor& d, float beta, const Tensor& c) { throw std::logic_error("symmetric_product: not here yet"); }

// activation.cpp
void CpuBackend::activation(Activation act, const Tensor& x, const Tensor& y) { throw std::logic_error("activation: not here yet"); }
void CpuBackend::activation_backward(Activation act, const Tensor& dy, const Tensor& saved, const Tensor& dx) { throw std::logic_error("activation_backward: not here yet"); }
void CpuBackend::swiglu(const Tensor& x, const Tensor& y) { throw std::logic_error("swiglu: not here yet"); }
void CpuBackend::swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) { throw std::logic_error("swiglu_backward: not here yet"); }
void CpuBackend::add(const Tensor& a, const Tensor& b, const Tensor& y) { throw std::logic_error("add: not here yet"); }
void CpuBackend::scale(const Tensor& x, double factor, const Tensor& y) { throw std::logic_error("scale: not here yet"); }

// norm.cpp
void CpuBackend::norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias, double eps, const Tensor& y, const Tensor& mean, const Tensor& rstd) { throw std::logic_error("norm: not here yet"); }
void CpuBackend::add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain, const Tensor& bias, double eps, const Tensor& sum, const Tensor& y, const Tensor& mean, const Tensor& rstd) { throw std::logic_error("add_norm: not here yet"); }
void CpuBackend::norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& mean, const Tensor& rstd, const Tensor& dx, bool accumulate, const Tensor& dgain, const Tensor& dbias, bool accumulate_parameters) { throw std::logic_error("norm_backward: not here yet"); }

// qk_transform.cpp, attention.cpp
void CpuBackend::qk_transform(const HeadLayout& layout, const QkTransform& t, const Tensor& in, const Tensor& out, const Tensor& rstd) { throw std::logic_error("qk_transform: not here yet"); }
void CpuBackend::qk_transform_backward(const HeadLayout& layout, const QkTransform& t, const Tensor& dout, const Tensor& out, const Tensor& rstd, const Tensor& din) { throw std::logic_error("qk_transform_backward: not here yet"); }
void CpuBackend::attention(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& out, const Tensor& lse) { throw std::logic_error("attention: not here yet"); }
void CpuBackend::attention_backward(const HeadLayout& layout, double scale, const Tensor& dout, const Tensor& qkv, const Tensor& out, const Tensor& lse, const Tensor& dqkv) { throw std::logic_error("attention_backward: not here yet"); }

// embedding.cpp, cross_entropy.cpp
void CpuBackend::embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions, std::int64_t context, const Tensor& out) { throw std::logic_error("embedding: not here yet"); }
void CpuBackend::embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context, const Tensor& dtable, const Tensor& dpositions) { throw std::logic_error("embedding_backward: not here yet"); }
void CpuBackend::cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab, const Softcap& cap, double gradient_scale, const Tensor& losses, const Tensor& dlogits) { throw std::logic_error("cross_entropy: not here yet"); }

// update.cpp
void CpuBackend::adamw(const AdamWStep& s, const Tensor& w, const Tensor& g, const Tensor& m, const Tensor& v) { throw std::logic_error("adamw: not here yet"); }
void CpuBackend::ema_momentum(const Tensor& g, double gradient_scale, double mu, bool nesterov, const Tensor& m, const Tensor& u) { throw std::logic_error("ema_momentum: not here yet"); }
void CpuBackend::apply_update(const Tensor& w, double keep, double step, const Tensor& u) { throw std::logic_error("apply_update: not here yet"); }
void CpuBackend::axpby(double a, const Tensor& x, double b, const Tensor& y) { throw std::logic_error("axpby: not here yet"); }

// reduction.cpp, random.cpp
double CpuBackend::sum_of_squares(const Tensor& x) { throw std::logic_error("sum_of_squares: not here yet"); }
double CpuBackend::sum(const Tensor& x) { throw std::logic_error("sum: not here yet"); }
bool CpuBackend::all_finite(const Tensor& x) { throw std::logic_error("all_finite: not here yet"); }

}  // namespace spectrain
