#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>

#include "kernels/error.h"
#include "kernels/host_device.h"

namespace spectrain {

enum class DType : std::uint8_t { f64, f32, bf16, i32, f16 };

std::size_t size_of(DType dtype);       // bytes of one element
std::string_view name_of(DType dtype);  // "f64", "f32", "bf16", "i32", "f16"

// A brain float: the upper half of an IEEE float32. Conversions round to nearest, ties to even; NaN stays
// NaN.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  SPECTRAIN_HD explicit bf16(float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));  // one instruction; every NaN becomes 0x7fff
#else
    std::uint32_t u;
    std::memcpy(&u, &value, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u)
      bits = static_cast<std::uint16_t>((u >> 16) | 0x40u);
    else
      bits = static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
#endif
  }
  SPECTRAIN_HD explicit operator float() const {
    const std::uint32_t u = static_cast<std::uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &u, 4);
    return value;
  }
};

// An IEEE half: 10 bits of mantissa, 6.1e-5 to 65504 with full precision. For the iterations of matrix
// optimizers on a GPU, whose numbers are known to be near 1 (optim/newton_schulz.h). Conversions as above.
struct f16 {
  std::uint16_t bits = 0;

  f16() = default;
  SPECTRAIN_HD explicit f16(float value) {
#ifdef __CUDA_ARCH__
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
#else
    std::uint32_t u;
    std::memcpy(&u, &value, 4);
    const std::uint32_t sign = (u >> 16) & 0x8000u;
    u &= 0x7fffffffu;
    std::uint32_t half;
    if (u > 0x7f800000u) {
      half = 0x7e00u;
    } else if (u >= 0x477ff000u) {  // 65520 and more round to infinity
      half = 0x7c00u;
    } else if (u >= 0x38800000u) {
      half = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
    } else {  // subnormal: the sum's last bit is worth 2^-24, as a subnormal half's is
      float magnitude;
      std::memcpy(&magnitude, &u, 4);
      magnitude += 0.5f;
      std::memcpy(&half, &magnitude, 4);
      half -= 0x3f000000u;
    }
    bits = static_cast<std::uint16_t>(sign | half);
#endif
  }
  SPECTRAIN_HD explicit operator float() const {
#ifdef __CUDA_ARCH__
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
#else
    const std::uint32_t exponent = (bits >> 10) & 31u, mantissa = bits & 0x3ffu;
    if (exponent == 0) {
      const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;
      return (bits & 0x8000u) ? -magnitude : magnitude;
    }
    const std::uint32_t u = static_cast<std::uint32_t>(bits & 0x8000u) << 16 |
                            (exponent == 31u ? 0xffu : exponent + 112u) << 23 | mantissa << 13;
    float value;
    std::memcpy(&value, &u, 4);
    return value;
#endif
  }
};

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::f64;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::f32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::bf16;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::i32;
};
template <>
struct DTypeOf<f16> {
  static constexpr DType value = DType::f16;
};

// Up to four dimensions, slowest first, all sizes 64-bit.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims);
  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(i)]; }
  std::int64_t numel() const;
  // The last dimension, and the product of all others (1 x n for a vector).
  std::int64_t cols() const { return rank_ == 0 ? 1 : dims_[static_cast<std::size_t>(rank_ - 1)]; }
  std::int64_t rows() const { return cols() == 0 ? 0 : numel() / cols(); }
  bool operator==(const Shape&) const = default;
  std::string str() const;  // "[768, 2304]"

 private:
  std::array<std::int64_t, 4> dims_{};
  int rank_ = 0;
};

// A non-owning view of contiguous memory: pointer, dtype, shape. Copying it copies the view.
// Memory belongs to the backend that allocated it; only host memory may be touched through as<T>().
struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  Tensor() = default;
  Tensor(void* d, DType t, Shape s) : data(d), dtype(t), shape(s) {}

  explicit operator bool() const { return data != nullptr; }
  std::int64_t numel() const { return shape.numel(); }
  std::int64_t rows() const { return shape.rows(); }
  std::int64_t cols() const { return shape.cols(); }
  std::size_t bytes() const { return static_cast<std::size_t>(numel()) * size_of(dtype); }

  // The elements, checked: throws std::logic_error when T is not this tensor's dtype.
  template <class T>
  T* as() const {
    if (DTypeOf<T>::value != dtype) wrong_dtype(DTypeOf<T>::value);
    return static_cast<T*>(data);
  }
  template <class T>
  std::span<T> span() const {
    return {as<T>(), static_cast<std::size_t>(numel())};
  }

  // Rows [first, first + count) of the tensor seen as a matrix [rows(), cols()].
  Tensor slice_rows(std::int64_t first, std::int64_t count) const;
  // Matrix i of a batch [B, rows, cols].
  Tensor matrix(std::int64_t i) const;
  Tensor reshaped(Shape s) const;  // same elements, another shape; throws std::logic_error on a mismatch

 private:
  [[noreturn]] void wrong_dtype(DType asked) const;
};

}  // namespace spectrain
