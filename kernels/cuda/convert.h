#pragma once

#include <string>

#include "kernels/cuda/device.h"
#include "kernels/error.h"

// Between what is stored and what is computed with. Only for .cu files.

namespace spectrain {

__device__ inline double widen(double x) { return x; }
__device__ inline float widen(float x) { return x; }
__device__ inline float widen(bf16 x) { return static_cast<float>(x); }
__device__ inline float widen(f16 x) { return static_cast<float>(x); }

// One rounding, to nearest, ties to even; from double to bf16 and f16 by way of float.
template <class To>
__device__ inline To narrow(double x) {
  return static_cast<To>(static_cast<float>(x));
}
template <>
__device__ inline double narrow<double>(double x) {
  return x;
}
template <class To>
__device__ inline To narrow(float x) {
  return static_cast<To>(x);
}

// Calls body(pointer) with the tensor's memory as double*, float*, bf16* or f16*.
template <class Body>
void with_float(const Tensor& t, const char* kernel, Body body) {
  switch (t.dtype) {
    case DType::f64:
      return body(t.as<double>());
    case DType::f32:
      return body(t.as<float>());
    case DType::bf16:
      return body(t.as<bf16>());
    case DType::f16:
      return body(t.as<f16>());
    case DType::i32:
      break;
  }
  throw std::logic_error(std::string(kernel) + ": i32 is not a float dtype");
}
// The same for float* and bf16* only, the dtypes of activations.
template <class Body>
void with_compute(const Tensor& t, const char* kernel, Body body) {
  if (t.dtype == DType::f32) return body(t.as<float>());
  if (t.dtype == DType::bf16) return body(t.as<bf16>());
  throw std::logic_error(std::string(kernel) + ": a tensor is " + std::string(name_of(t.dtype)) +
                         ", a GPU computes in f32 and bf16");
}
// The same for float*, bf16* and f16*, what optimizers iterate in.
template <class Body>
void with_iterated(const Tensor& t, const char* kernel, Body body) {
  if (t.dtype == DType::f16) return body(t.as<f16>());
  with_compute(t, kernel, body);
}
template <class T>
using Element = std::remove_pointer_t<T>;

}  // namespace spectrain
