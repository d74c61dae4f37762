#pragma once

#include "kernels/cuda/cuda_backend.h"

// Between numbers and the bits of eight-bit floats (kernels/fp8.h).

namespace spectrain {

// bits [R,C] and behind them [C,R], a byte each = fp8(scale x);  x [R,C] bf16 or f32
void encode_both_ways(CudaBackend& backend, Fp8 format, double scale, const Tensor& x, std::uint8_t* bits);

// x = number of bits / scale, rounded to bf16;  as many as x has elements
void decode_fp8(CudaBackend& backend, Fp8 format, double scale, const std::uint8_t* bits, const Tensor& x);

}  // namespace spectrain
