#include "kernels/tensor.h"

#include <fmt/format.h>

namespace spectrain {

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return 8;
    case DType::f32:
      return 4;
    case DType::bf16:
    case DType::f16:
      return 2;
    case DType::i32:
      return 4;
  }
  throw std::logic_error("unknown dtype");
}

std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "f64";
    case DType::f32:
      return "f32";
    case DType::bf16:
      return "bf16";
    case DType::i32:
      return "i32";
    case DType::f16:
      return "f16";
  }
  throw std::logic_error("unknown dtype");
}

Shape::Shape(std::initializer_list<std::int64_t> dims) {
  if (dims.size() > 4) throw std::logic_error("a shape has at most four dimensions");
  for (const std::int64_t d : dims) dims_[static_cast<std::size_t>(rank_++)] = d;
}

std::int64_t Shape::numel() const {
  std::int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= (*this)[i];
  return n;
}

std::string Shape::str() const {
  std::string s = "[";
  for (int i = 0; i < rank_; ++i) s += fmt::format("{}{}", i ? ", " : "", (*this)[i]);
  return s + "]";
}

Tensor Tensor::slice_rows(std::int64_t first, std::int64_t count) const {
  if (first < 0 || count < 0 || first + count > rows())
    throw std::logic_error(fmt::format("rows {}..{} of a tensor {}", first, first + count, shape.str()));
  auto* base = static_cast<std::byte*>(data) + static_cast<std::size_t>(first * cols()) * size_of(dtype);
  return {base, dtype, Shape{count, cols()}};
}

Tensor Tensor::matrix(std::int64_t i) const {
  if (shape.rank() != 3 || i < 0 || i >= shape[0])
    throw std::logic_error(fmt::format("matrix {} of a tensor {}", i, shape.str()));
  const std::size_t bytes = static_cast<std::size_t>(shape[1] * shape[2]) * size_of(dtype);
  return {static_cast<std::byte*>(data) + static_cast<std::size_t>(i) * bytes, dtype, {shape[1], shape[2]}};
}

Tensor Tensor::reshaped(Shape s) const {
  if (s.numel() != numel()) throw std::logic_error(fmt::format("cannot view {} as {}", shape.str(), s.str()));
  return {data, dtype, s};
}

void Tensor::wrong_dtype(DType asked) const {
  throw std::logic_error(
      fmt::format("tensor {} holds {}, not {}", shape.str(), name_of(dtype), name_of(asked)));
}

}  // namespace spectrain
