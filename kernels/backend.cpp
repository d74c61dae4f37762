#include "kernels/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/formulas_update.h"

namespace spectrain {

Tensor Buffer::view(DType dtype, Shape shape, std::size_t offset) const {
  const Tensor t{static_cast<std::byte*>(data_) + offset, dtype, shape};
  if (offset + t.bytes() > bytes_)
    throw std::logic_error(
        fmt::format("a view of {} bytes at {} does not fit a buffer of {}", t.bytes(), offset, bytes_));
  return t;
}

void ReductionKernels::add_sum(const Tensor& x, const Tensor& total) { *total.as<double>() += sum(x); }

void ReductionKernels::add_squares(std::span<const Tensor> xs, const Tensor& total) {
  for (const Tensor& x : xs) *total.as<double>() += sum_of_squares(x);
}

double seen(const Number& number) {
  return number.late ? number.value * *number.late.as<double>() : number.value;
}

std::array<double, AdamWStep::kRates> AdamWStep::rates() const {
  const auto t = static_cast<double>(step);
  return {lr, 1 - std::pow(beta1, t), 1 - std::pow(beta2, t)};
}

void OptimizerKernels::clip_factor(const Tensor& squares, const Tensor& loss, double clip,
                                   const Tensor& verdict) {
  auto* const v = verdict.as<double>();
  if (!std::isfinite(*loss.as<double>())) v[1] = 1;
  const double sum = *squares.as<double>();
  v[0] =
      std::isfinite(sum) && v[1] == 0 ? clip_factor_of(sum, clip) : std::numeric_limits<double>::quiet_NaN();
}

namespace {

class SeenAtOnce final : public LateRead {
 public:
  SeenAtOnce(MemoryKernels& memory, std::size_t bytes) : memory_(memory), copy_(bytes) {}
  void ask(const Tensor& x) override {
    if (x.bytes() != copy_.size()) throw std::logic_error("LateRead::ask: a tensor of another size");
    memory_.copy_to_host(copy_.data(), x);
  }
  const void* wait() override { return copy_.data(); }

 private:
  MemoryKernels& memory_;
  std::vector<std::byte> copy_;
};

}  // namespace

std::unique_ptr<LateRead> MemoryKernels::late_read(std::size_t bytes) {
  return std::make_unique<SeenAtOnce>(*this, bytes);
}

namespace {

// Calls each(matrix) with every matrix of a batch, or with the only one.
template <class Each>
void for_each_matrix(const Tensor& x, Each each) {
  if (x.shape.rank() != 3) return each(x, 0);
  for (std::int64_t i = 0; i < x.shape[0]; ++i) each(x.matrix(i), i);
}

template <class T>
void add_to_diagonal(const Tensor& c, float factor) {
  T* p = c.as<T>();
  for (std::int64_t i = 0; i < c.rows(); ++i, p += c.cols() + 1) {
    if constexpr (std::is_same_v<T, double>)
      *p += static_cast<double>(factor);
    else
      *p = T(static_cast<float>(*p) + factor);
  }
}

}  // namespace

void Backend::linear_activation_backward(const Tensor& dy, const PreparedMatrix& w, Activation act,
                                         const Tensor& saved, const Tensor& dx) {
  linear_backward_input(dy, w, dx, false);
  activation_backward(act, dx, saved, dx);
}

void Backend::commuting_product(const Tensor& a, const Tensor& b, float alpha, const Tensor& d, float beta,
                                const Tensor& c) {
  const bool adds = d && beta != 0;
  if (adds && d.data != c.data) copy(d, c);
  matmul(a, false, b, false, alpha, adds ? beta : 0, c);
}

void MatrixKernels::add_identity(const Tensor& batch, float factor) {
  for_each_matrix(batch, [factor](const Tensor& c, std::int64_t) {
    switch (c.dtype) {
      case DType::f64:
        return add_to_diagonal<double>(c, factor);
      case DType::f32:
        return add_to_diagonal<float>(c, factor);
      case DType::bf16:
        return add_to_diagonal<bf16>(c, factor);
      case DType::f16:
        return add_to_diagonal<f16>(c, factor);
      case DType::i32:
        throw std::logic_error("add_identity: i32 is not a float dtype");
    }
  });
}

void Backend::normalize(const Tensor& x, double safety, const Tensor& y) {
  for_each_matrix(x, [&](const Tensor& from, std::int64_t i) {
    const double norm = std::sqrt(std::max(sum_of_squares(from), 1e-30));
    const Tensor to = y.shape.rank() == 3 ? y.matrix(i) : y;
    if (to.dtype == from.dtype)
      scale(from, 1 / (safety * norm), to);
    else
      axpby(1 / (safety * norm), from, 0, to);
  });
}

double softcapped(const Softcap& s, double z) {
  switch (s.kind) {
    case Softcap::Kind::none:
      return z;
    case Softcap::Kind::tanh:
      return s.cap * std::tanh(z / s.cap);
    case Softcap::Kind::sigmoid:
      return s.cap / (1 + std::exp(-(z + s.offset) / s.divisor));
    case Softcap::Kind::rational:
      return z * s.cap / std::sqrt(z * z + s.cap * s.cap);
  }
  throw std::logic_error("unknown softcap");
}

}  // namespace spectrain
