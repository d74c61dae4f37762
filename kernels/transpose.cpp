#include "kernels/transpose.h"

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
void transpose_blocks(const Tensor& x, const Tensor& y, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t kBlock = 32;
  const std::int64_t rows = x.rows(), cols = x.cols();
  const From* from = x.as<From>();
  To* to = y.as<To>();
  for (std::int64_t c0 = first; c0 < last; c0 += kBlock)
    for (std::int64_t r0 = 0; r0 < rows; r0 += kBlock) {
      const std::int64_t r1 = std::min(r0 + kBlock, rows), c1 = std::min(c0 + kBlock, last);
      for (std::int64_t c = c0; c < c1; ++c)
        for (std::int64_t r = r0; r < r1; ++r) to[c * rows + r] = converted<From, To>(from[r * cols + c]);
    }
}

template <class From>
void transpose_from(const Tensor& x, const Tensor& y, std::int64_t first, std::int64_t last) {
  switch (y.dtype) {
    case DType::f64:
      return transpose_blocks<From, double>(x, y, first, last);
    case DType::f32:
      return transpose_blocks<From, float>(x, y, first, last);
    default:
      return transpose_blocks<From, bf16>(x, y, first, last);
  }
}

}  // namespace

void transpose_range(const Tensor& x, const Tensor& y, std::int64_t first, std::int64_t last) {
  if (x.rows() != y.cols() || x.cols() != y.rows() || x.dtype == DType::i32 || y.dtype == DType::i32 ||
      x.dtype == DType::f16 || y.dtype == DType::f16)
    throw std::logic_error(fmt::format("transpose: cannot write {} {} transposed to {} {}", name_of(x.dtype),
                                       x.shape.str(), name_of(y.dtype), y.shape.str()));
  switch (x.dtype) {
    case DType::f64:
      return transpose_from<double>(x, y, first, last);
    case DType::f32:
      return transpose_from<float>(x, y, first, last);
    default:
      return transpose_from<bf16>(x, y, first, last);
  }
}

void OptimizerKernels::transpose(const Tensor& x, const Tensor& y) { transpose_range(x, y, 0, y.rows()); }

}  // namespace spectrain
