#include <cmath>
#include <stdexcept>

#include "cuda_runtime.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/products.h"

// What stands for cuBLASLt in the emulator: sums in float32, in the order of k, and one rounding at the end.
// A bias is added and an activation taken before that rounding, as in the library's epilogues.

namespace spectrain {
namespace {

float load(const void* p, DType dtype, std::int64_t i) {
  return dtype == DType::bf16  ? static_cast<float>(static_cast<const bf16*>(p)[i])
         : dtype == DType::f16 ? static_cast<float>(static_cast<const f16*>(p)[i])
                               : static_cast<const float*>(p)[i];
}
void store(void* p, DType dtype, std::int64_t i, float x) {
  if (dtype == DType::bf16)
    static_cast<bf16*>(p)[i] = bf16(x);
  else if (dtype == DType::f16)
    static_cast<f16*>(p)[i] = f16(x);
  else
    static_cast<float*>(p)[i] = x;
}

void multiply(const Product& p, std::int64_t matrix) {
  const std::int64_t a0 = matrix * p.m * p.k, b0 = matrix * p.k * p.n, c0 = matrix * p.m * p.n;
  std::vector<float> b(static_cast<std::size_t>(p.k * p.n)), row(static_cast<std::size_t>(p.n));
  for (std::int64_t k = 0; k < p.k; ++k)
    for (std::int64_t j = 0; j < p.n; ++j)
      b[static_cast<std::size_t>(k * p.n + j)] =
          load(p.b, p.factors, b0 + (p.transpose_b ? j * p.k + k : k * p.n + j));
  for (std::int64_t i = 0; i < p.m; ++i) {
    std::fill(row.begin(), row.end(), 0.0f);
    for (std::int64_t k = 0; k < p.k; ++k) {
      const float a = load(p.a, p.factors, a0 + (p.transpose_a ? k * p.m + i : i * p.k + k));
      const float* line = b.data() + k * p.n;
      for (std::int64_t j = 0; j < p.n; ++j) row[static_cast<std::size_t>(j)] += a * line[j];
    }
    for (std::int64_t j = 0; j < p.n; ++j) {
      const std::int64_t at = c0 + i * p.n + j;
      float x = p.alpha * row[static_cast<std::size_t>(j)];
      if (p.bias) x += load(p.bias, p.result, j);
      if (p.pre) store(p.pre, p.result, at, x);
      if (p.gelu_tanh) x = 0.5f * x * (1 + std::tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
      if (p.beta != 0) x += p.beta * load(p.c, p.result, at);
      store(p.c, p.result, at, x);
    }
  }
}

class EmulatedProducts final : public Products {
 public:
  explicit EmulatedProducts(CudaBackend& backend) : backend_(backend) {}
  void run(const Product& product) override {
    if ((product.bias || product.gelu_tanh) &&
        (product.alpha != 1 || product.beta != 0 || product.batch != 1))
      throw std::logic_error("a product with an epilogue has alpha 1, beta 0 and a batch of 1");
    emulator::enqueue(backend_.stream(), [product] {
      for (std::int64_t i = 0; i < product.batch; ++i) multiply(product, i);
    });
  }
  std::string description() const override { return "plain loops"; }

 private:
  CudaBackend& backend_;
};

}  // namespace

std::unique_ptr<Products> make_products(CudaBackend& backend) {
  return std::make_unique<EmulatedProducts>(backend);
}

}  // namespace spectrain
