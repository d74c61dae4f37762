#pragma once

#include <cstdint>

#include "kernels/tensor.h"

namespace spectrain {

class CudaBackend;

// c[i] = alpha a[i] . b[i]^T + beta d[i] for the matrices i of a batch, each of which is known to be
// symmetric: with b = a always, else because a and b are symmetric and commute.
struct SymmetricProduct {
  std::int64_t batch = 1, m = 0, k = 0;                 // a, b [batch, m, k]; c, d [batch, m, m]
  const void *a = nullptr, *b = nullptr, *d = nullptr;  // d null: nothing is added; d may be c
  void* c = nullptr;
  DType factors = DType::bf16, result = DType::bf16;  // of a and b: f32, bf16, f16; of c and d: that or f32
  float alpha = 1, beta = 0;
};

// Blocks compute tiles of kTriangleTile^2. With T = ceil(m / kTriangleTile) there are T (T+1) / 2 in the
// lower triangle of a matrix.
constexpr int kTriangleTile = 128;
inline std::int64_t triangle_tiles(std::int64_t m) {
  const std::int64_t t = (m + kTriangleTile - 1) / kTriangleTile;
  return t * (t + 1) / 2;
}

// Whether the tensor cores can do it: 16-bit factors, m and k multiples of 8, memory aligned to 16.
bool fits_tensor_cores(const SymmetricProduct& p);
void symmetric_by_tensor_cores(CudaBackend& backend, const SymmetricProduct& p);  // symmetric_tensor.cu
void symmetric_by_ffma(CudaBackend& backend, const SymmetricProduct& p);          // symmetric_ffma.cu

}  // namespace spectrain
