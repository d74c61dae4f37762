#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "kernels/tensor.h"

// Matrix products through oneDNN. A build without it has built_in() == false and throws std::logic_error from
// everything else.

namespace spectrain {

// c[m,n] = alpha op(a) . op(b) + beta c + bias. op(a) [m,k], op(b) [k,n]; a transposed operand is stored the
// other way round, row-major. b may be packed weights (pack_weights()). alpha is 1 and beta 0 or 1:
// CpuBackend::Matrices::multiply_onednn sees to other factors.
struct OnednnProduct {
  std::int64_t m = 0, n = 0, k = 0;
  Tensor a, b;
  bool transpose_a = false, transpose_b = false;
  const void* packed_b = nullptr;  // instead of b
  float alpha = 1, beta = 0;
  Tensor bias;  // [n] f32, or empty
  Tensor c;
};

class OnednnProducts {
 public:
  // `scratch(bytes)`: memory for the call, kept and counted by the backend.
  using Scratch = std::function<void*(std::size_t bytes)>;
  explicit OnednnProducts(Scratch scratch);
  ~OnednnProducts();

  static bool built_in();
  static bool amx_bf16();  // bf16 products run in AMX tiles on this CPU
  static bool has_bf16();  // bf16 products run at all: oneDNN wants AVX-512 for them

  void multiply(const OnednnProduct& p);
  // op(b) [k,n] in the layout that products with packed_b want, from a float32 or bf16 matrix.
  static std::size_t packed_bytes(std::int64_t k, std::int64_t n, DType compute);
  void pack_weights(const Tensor& b, bool transpose_b, std::int64_t k, std::int64_t n, DType compute,
                    void* packed);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace spectrain
