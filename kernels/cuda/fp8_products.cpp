#include <fmt/format.h>

#include <stdexcept>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/fp8_kernels.h"
#include "kernels/cuda/plain_product.h"
#include "kernels/cuda/products.h"

// Products of eight-bit floats. The library contracts along the rows of both factors, while the three
// products of a layer (y, dx, dW) contract along each of the three dimensions once: so every factor is there
// twice, as it is and transposed, in the two bytes that a number has in bf16.
//
// Which form a matrix has is decided when it is prepared, and its operands follow. What cannot be multiplied
// as it is then (a chunk of an odd number of rows, a product that the library refuses) is decoded into
// scratch memory and multiplied in bf16: the same numbers, slower.

namespace spectrain {
namespace {

constexpr int kFirstWithFp8 = 89;       // compute capability
constexpr std::int64_t kMultiple = 16;  // of which sizes are, in products of eight-bit floats

class CudaFp8Matrix final : public PreparedMatrix {
 public:
  CudaFp8Matrix(double scale, std::int64_t rows, std::int64_t cols) : scale_(scale) {
    rows_ = rows;
    cols_ = cols;
  }
  double scale() const { return scale_; }

  std::unique_ptr<Buffer> bits;             // [N,K] and [K,N], or
  std::unique_ptr<PreparedMatrix> rounded;  // [N,K] in the compute dtype

 private:
  double scale_;
};

const CudaFp8Matrix& fp8_matrix(const PreparedMatrix& w, const char* kernel) {
  const auto* matrix = dynamic_cast<const CudaFp8Matrix*>(&w);
  if (!matrix)
    throw std::logic_error(fmt::format("{}: the matrix was not prepared for eight-bit floats", kernel));
  return *matrix;
}

const CudaFp8Matrix& fp8_matrix(const PreparedMatrix& w, const Fp8Operand& x, const char* kernel) {
  const CudaFp8Matrix& matrix = fp8_matrix(w, kernel);
  require(x.eight_bits == (matrix.bits != nullptr), kernel, "the operand was made for another matrix");
  return matrix;
}

const std::uint8_t* along(const void* bits) { return static_cast<const std::uint8_t*>(bits); }
const std::uint8_t* across(const void* bits, std::int64_t numel) { return along(bits) + numel; }

void require_shape(const Tensor& t, std::int64_t rows, std::int64_t cols, const char* kernel,
                   const char* name) {
  if (t.rows() != rows || t.cols() != cols)
    throw std::logic_error(
        fmt::format("{}: {} is {} but [{}, {}] is needed", kernel, name, t.shape.str(), rows, cols));
}

Product contraction(std::int64_t m, std::int64_t n, std::int64_t k, const Tensor& c, bool accumulate) {
  Product p;
  p.m = m, p.n = n, p.k = k;
  p.transpose_b = true;
  p.c = c.data, p.result = c.dtype;
  p.beta = accumulate ? 1 : 0;
  return p;
}

}  // namespace

void CudaBackend::note_fp8(const std::string& why) {
  std::string note =
      "Products of eight-bit floats are made in bf16, with the same numbers but slower: " + why;
  if (fp8_noted_.insert(note).second) fp8_notes_.push_back(std::move(note));
}

std::unique_ptr<PreparedMatrix> CudaBackend::prepare_fp8(double scale, const Tensor& values, DType compute) {
  require(scale > 0, "prepare_fp8", "a scale above 0 is needed");
  const std::int64_t n = values.rows(), k = values.cols();
  auto matrix = std::make_unique<CudaFp8Matrix>(scale, n, k);
  const bool has = capability_ >= kFirstWithFp8 && compute == DType::bf16;
  if (has && n % kMultiple == 0 && k % kMultiple == 0) {
    matrix->bits = allocate(prepared_fp8_bytes({n, k}, compute),
                            fmt::format("a matrix {} of eight-bit floats", values.shape.str()));
  } else {
    if (has)
      note_fp8(
          fmt::format("a matrix of {} has a size that is no multiple of {}.", values.shape.str(), kMultiple));
    matrix->rounded = prepare(values, compute, true);
  }
  refresh_fp8(*matrix, values);
  return matrix;
}

void CudaBackend::refresh_fp8(PreparedMatrix& w, const Tensor& values) {
  const CudaFp8Matrix& matrix = fp8_matrix(w, "refresh_fp8");
  require_shape(values, w.rows(), w.cols(), "refresh_fp8", "values");
  if (matrix.bits)
    encode_both_ways(*this, Fp8::e4m3, matrix.scale(), values,
                     static_cast<std::uint8_t*>(matrix.bits->data()));
  else
    round_fp8(Fp8::e4m3, matrix.scale(), values, prepared_tensor(*matrix.rounded, "refresh_fp8"));
}

Fp8Operand CudaBackend::encode_fp8(Fp8 format, double scale, const Tensor& x, const PreparedMatrix& w,
                                   const Tensor& memory) {
  require(scale > 0, "encode_fp8", "a scale above 0 is needed");
  require_shape(memory, x.rows(), x.cols(), "encode_fp8", "memory");
  const Fp8Operand made{memory, format, scale, fp8_matrix(w, "encode_fp8").bits != nullptr};
  if (made.eight_bits) {
    require(memory.dtype == DType::bf16, "encode_fp8", "memory is not bf16");
    encode_both_ways(*this, format, scale, x, static_cast<std::uint8_t*>(memory.data));
  } else {
    round_fp8(format, scale, x, memory);
  }
  return made;
}

void CudaBackend::linear_fp8(const Fp8Operand& x, const PreparedMatrix& w, const Tensor& bias,
                             const Tensor& y) {
  const CudaFp8Matrix& matrix = fp8_matrix(w, x, "linear_fp8");
  if (!x.eight_bits) return linear(x.memory, *matrix.rounded, bias, Activation::none, {}, y);
  const std::int64_t r = x.memory.rows(), n = w.rows(), k = w.cols();
  require_shape(x.memory, r, k, "linear_fp8", "x");
  require_shape(y, r, n, "linear_fp8", "y");
  require_vector(bias, DType::f32, n, true, "linear_fp8", "bias");
  Product p = contraction(r, n, k, y, static_cast<bool>(bias));
  p.a = along(x.memory.data);
  p.b = along(matrix.bits->data());
  p.eight_bits = EightBits{x.format, Fp8::e4m3, true};
  if (bias) {
    const Tensor addend(scratch(static_cast<std::size_t>(n) * size_of(y.dtype)), y.dtype, {n});
    copy(bias, addend);
    p.bias = addend.data;
    spread_bias(*this, p);
    p.bias = nullptr;
  }
  multiply_fp8(p, x.scale, matrix.scale());
}

void CudaBackend::linear_backward_input_fp8(const Fp8Operand& dy, const PreparedMatrix& w, const Tensor& dx,
                                            bool accumulate) {
  const CudaFp8Matrix& matrix = fp8_matrix(w, dy, "linear_backward_input_fp8");
  if (!dy.eight_bits) return linear_backward_input(dy.memory, *matrix.rounded, dx, accumulate);
  const std::int64_t r = dy.memory.rows(), n = w.rows(), k = w.cols();
  require_shape(dy.memory, r, n, "linear_backward_input_fp8", "dy");
  require_shape(dx, r, k, "linear_backward_input_fp8", "dx");
  Product p = contraction(r, k, n, dx, accumulate);
  p.a = along(dy.memory.data);
  p.b = across(matrix.bits->data(), n * k);
  p.eight_bits = EightBits{dy.format, Fp8::e4m3, false};
  multiply_fp8(p, dy.scale, matrix.scale());
}

void CudaBackend::linear_backward_weight_fp8(const Fp8Operand& dy, const Fp8Operand& x, const Tensor& dw,
                                             bool accumulate) {
  require(dy.eight_bits == x.eight_bits, "linear_backward_weight_fp8",
          "dy and x were made for different matrices");
  if (!dy.eight_bits) return linear_backward_weight(dy.memory, x.memory, dw, accumulate);
  const std::int64_t r = x.memory.rows(), n = dw.rows(), k = dw.cols();
  require_shape(dy.memory, r, n, "linear_backward_weight_fp8", "dy");
  require_shape(x.memory, r, k, "linear_backward_weight_fp8", "x");
  require(dw.dtype == DType::f32, "linear_backward_weight_fp8", "dw is not f32");
  Product p = contraction(n, k, r, dw, accumulate);
  p.a = across(dy.memory.data, r * n);
  p.b = across(x.memory.data, r * k);
  p.eight_bits = EightBits{dy.format, x.format, false};
  multiply_fp8(p, dy.scale, x.scale);
}

void CudaBackend::multiply_fp8(const Product& product, double scale_a, double scale_b) {
  Product p = product;
  p.alpha = static_cast<float>(1 / (scale_a * scale_b));
  if (products().run_eight_bits(p)) return;
  note_fp8(p.m % kMultiple != 0 || p.n % kMultiple != 0 || p.k % kMultiple != 0
               ? fmt::format("[{}, {}] . [{}, {}]^T has a size that is no multiple of {}.", p.m, p.k, p.n,
                             p.k, kMultiple)
               : fmt::format("{} has none for [{}, {}] . [{}, {}]^T.", products().description(), p.m, p.k,
                             p.n, p.k));
  const auto bytes = [](std::int64_t numbers) {
    return (static_cast<std::size_t>(numbers) * size_of(DType::bf16) + 255) / 256 * 256;
  };
  auto* memory = static_cast<std::byte*>(scratch(bytes(p.m * p.k) + bytes(p.n * p.k)));
  const Tensor a(memory, DType::bf16, {p.m, p.k}), b(memory + bytes(p.m * p.k), DType::bf16, {p.n, p.k});
  decode_fp8(*this, p.eight_bits->a, scale_a, along(p.a), a);
  decode_fp8(*this, p.eight_bits->b, scale_b, along(p.b), b);
  p.a = a.data, p.b = b.data;
  p.alpha = 1;
  p.eight_bits.reset();
  products().run(p);
}

}  // namespace spectrain
