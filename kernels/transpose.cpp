#include <fmt/format.h>

#include <algorithm>

#include "kernels/backend.h"

namespace spectrain {

namespace {

template <class From, class To>
To converted(From value) {
  if constexpr (std::is_same_v<From, To>)
    return value;
  else if constexpr (std::is_same_v<From, bf16>)
    return static_cast<To>(static_cast<float>(value));
  else if constexpr (std::is_same_v<To, bf16>)
    return bf16(static_cast<float>(value));
  else
    return static_cast<To>(value);
}

// Square blocks, so that both the rows read and the rows written stay in the first-level cache.
template <class From, class To>
void transpose_blocks(const From* x, std::int64_t rows, std::int64_t cols, To* y) {
  constexpr std::int64_t kBlock = 32;
#pragma omp parallel for schedule(static) if (rows * cols > 65536)
  for (std::int64_t c0 = 0; c0 < cols; c0 += kBlock)
    for (std::int64_t r0 = 0; r0 < rows; r0 += kBlock) {
      const std::int64_t r1 = std::min(r0 + kBlock, rows), c1 = std::min(c0 + kBlock, cols);
      for (std::int64_t c = c0; c < c1; ++c)
        for (std::int64_t r = r0; r < r1; ++r) y[c * rows + r] = converted<From, To>(x[r * cols + c]);
    }
}

template <class From>
void transpose_from(const Tensor& x, const Tensor& y) {
  const From* from = x.as<From>();
  switch (y.dtype) {
    case DType::f64:
      return transpose_blocks(from, x.rows(), x.cols(), y.as<double>());
    case DType::f32:
      return transpose_blocks(from, x.rows(), x.cols(), y.as<float>());
    default:
      return transpose_blocks(from, x.rows(), x.cols(), y.as<bf16>());
  }
}

}  // namespace

void OptimizerKernels::transpose(const Tensor& x, const Tensor& y) {
  if (x.rows() != y.cols() || x.cols() != y.rows() || x.dtype == DType::i32 || y.dtype == DType::i32)
    throw std::logic_error(fmt::format("transpose: cannot write {} {} transposed to {} {}", name_of(x.dtype),
                                       x.shape.str(), name_of(y.dtype), y.shape.str()));
  switch (x.dtype) {
    case DType::f64:
      return transpose_from<double>(x, y);
    case DType::f32:
      return transpose_from<float>(x, y);
    default:
      return transpose_from<bf16>(x, y);
  }
}

}  // namespace spectrain
