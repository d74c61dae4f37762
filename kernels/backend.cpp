#include "kernels/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

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

void Backend::normalize(const Tensor& x, double safety, const Tensor& y) {
  const bool batch = x.shape.rank() == 3;
  for (std::int64_t i = 0; i < (batch ? x.shape[0] : 1); ++i) {
    const Tensor from = batch ? x.matrix(i) : x, to = batch ? y.matrix(i) : y;
    const double norm = std::sqrt(std::max(sum_of_squares(from), 1e-30));
    axpby(1 / (safety * norm), from, 0, to);
  }
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
