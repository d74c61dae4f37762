#pragma once

#include <compare>
#include <memory>
#include <optional>

#include "kernels/backend.h"

namespace spectrain {

class CudaBackend;

// Factors of eight-bit floats.
struct EightBits {
  Fp8 a, b;        // not both e5m2
  bool fast_sums;  // partial sums stay in the tensor cores' own precision
  auto operator<=>(const EightBits&) const = default;
};

// One matrix product, or a batch of them that lie one after the other, all row-major:
//
//   c[m,n] = act(alpha op(a) . op(b) + bias[n]) + beta c      op(a) [m,k], op(b) [k,n]
//   c[m,n] = (op(a) . op(b)) gelu_tanh'(slope_at)             with slope_at
struct Product {
  std::int64_t batch = 1, m = 0, n = 0, k = 0;
  const void* a = nullptr;  // [m,k], or [k,m] when transposed
  const void* b = nullptr;  // [k,n], or [n,k] when transposed
  bool transpose_a = false, transpose_b = false;
  DType factors = DType::bf16;            // of a and b: bf16, f16 or f32 (f32 with full precision: no TF32)
  std::optional<EightBits> eight_bits{};  // instead; for run_eight_bits() alone
  void* c = nullptr;
  DType result = DType::bf16;  // the factors' dtype or f32
  float alpha = 1, beta = 0;
  // Epilogue; only with alpha 1, beta 0, batch 1. slope_at excludes the others.
  const void* bias = nullptr;  // [n] in c's dtype
  bool gelu_tanh = false;
  void* pre = nullptr;             // with gelu_tanh: also receives the value before it, [m,n] in c's dtype
  const void* slope_at = nullptr;  // [m,n] in c's dtype
};

// Matrix products of a library: cuBLASLt (products_cublaslt.cpp), or own kernels where it has none. In the
// tests' emulator plain loops stand for the library.
class Products {
 public:
  virtual ~Products() = default;
  virtual void run(const Product& product) = 0;  // in the backend's stream
  // A product of eight-bit floats, b transposed and without an epilogue; c bf16 or f32. Returns false, with
  // nothing done, where the library has none: its kernels contract along rows of both factors, and want m, n
  // and k to be multiples of 16 and pointers aligned to 16 bytes (cuBLAS documentation, cublasLtMatmul).
  virtual bool run_eight_bits(const Product& product) = 0;
  virtual std::string description() const = 0;  // "cuBLASLt 13.1.0"
};
std::unique_ptr<Products> make_products(CudaBackend& backend);

// What prepare() made, [N,K] in the compute dtype (matrices.cpp). Throws std::logic_error in `kernel`'s name
// where another backend made it.
const Tensor& prepared_tensor(const PreparedMatrix& w, const char* kernel);

}  // namespace spectrain
