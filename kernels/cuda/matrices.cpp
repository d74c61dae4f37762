#include <fmt/format.h>

#include <stdexcept>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/products.h"

// Weights and their products. A prepared matrix is the master's numbers [N,K] rounded to the compute dtype:
// the same memory serves W^T (forward) and W (backward), which a GPU's products read equally fast.

namespace spectrain {
namespace {

class CudaMatrix final : public PreparedMatrix {
 public:
  CudaMatrix(std::unique_ptr<Buffer> buffer, DType dtype, std::int64_t rows, std::int64_t cols, bool backward)
      : buffer_(std::move(buffer)), tensor_(buffer_->data(), dtype, {rows, cols}), backward_(backward) {
    rows_ = rows;
    cols_ = cols;
  }
  const Tensor& tensor() const { return tensor_; }
  bool backward() const { return backward_; }  // was asked for: other backends need to know

 private:
  std::unique_ptr<Buffer> buffer_;
  Tensor tensor_;
  bool backward_;
};

const CudaMatrix& prepared(const PreparedMatrix& w, const char* kernel) {
  const auto* matrix = dynamic_cast<const CudaMatrix*>(&w);
  if (!matrix) throw std::logic_error(fmt::format("{}: the matrix was prepared by another backend", kernel));
  return *matrix;
}

void require_float(const Tensor& t, const char* kernel, const char* name) {
  if (!t && t.numel() != 0) throw std::logic_error(fmt::format("{}: {} has no memory", kernel, name));
  if (t.dtype != DType::f32 && t.dtype != DType::bf16)
    throw std::logic_error(fmt::format("{}: {} {} is {}, layers compute in f32 and bf16", kernel, name,
                                       t.shape.str(), name_of(t.dtype)));
}

void require_shape(const Tensor& t, std::int64_t rows, std::int64_t cols, const char* kernel,
                   const char* name) {
  require_float(t, kernel, name);
  if (t.rows() != rows || t.cols() != cols)
    throw std::logic_error(
        fmt::format("{}: {} is {} but [{}, {}] is needed", kernel, name, t.shape.str(), rows, cols));
}

// A result in the factors' dtype or in float32.
void require_result(const Tensor& t, DType compute, const char* kernel, const char* name) {
  if (t.dtype != compute && t.dtype != DType::f32)
    throw std::logic_error(fmt::format("{}: {} is {}, a product of {} is made in {} or f32", kernel, name,
                                       name_of(t.dtype), name_of(compute), name_of(compute)));
}

std::size_t rounded_up(std::size_t bytes) { return (bytes + 255) / 256 * 256; }

// Copies of tensors in other dtypes, in the backend's scratch memory. All of one product are asked for
// together: the next who wants scratch memory may get the same.
class Converted {
 public:
  void add(Tensor& t, DType dtype) {
    if (!t || t.dtype == dtype) return;
    wanted_[count_++] = {&t, dtype, bytes_};
    bytes_ += rounded_up(static_cast<std::size_t>(t.numel()) * size_of(dtype));
  }
  void make(CudaBackend& backend) {
    if (count_ == 0) return;
    auto* memory = static_cast<std::byte*>(backend.scratch(bytes_));
    for (int i = 0; i < count_; ++i) {
      const Wanted& w = wanted_[i];
      const Tensor copy(memory + w.offset, w.dtype, w.tensor->shape);
      backend.copy(*w.tensor, copy);
      *w.tensor = copy;
    }
  }

 private:
  struct Wanted {
    Tensor* tensor;
    DType dtype;
    std::size_t offset;
  };
  Wanted wanted_[3];
  int count_ = 0;
  std::size_t bytes_ = 0;
};

}  // namespace

const Tensor& prepared_tensor(const PreparedMatrix& w, const char* kernel) {
  return prepared(w, kernel).tensor();
}

std::unique_ptr<PreparedMatrix> CudaBackend::prepare(const Tensor& master, DType compute, bool backward) {
  require_float(master, "prepare", "master");
  require(compute == DType::f32 || compute == DType::bf16, "prepare", "compute is neither f32 nor bf16");
  const std::int64_t n = master.rows(), k = master.cols();
  auto buffer = allocate(prepared_bytes({n, k}, compute, backward),
                         fmt::format("a prepared matrix {}", master.shape.str()));
  auto matrix = std::make_unique<CudaMatrix>(std::move(buffer), compute, n, k, backward);
  copy(master, matrix->tensor());
  return matrix;
}

void CudaBackend::refresh(PreparedMatrix& w, const Tensor& master) {
  require_float(master, "refresh", "master");
  require(master.rows() == w.rows() && master.cols() == w.cols(), "refresh", "master has another shape");
  copy(master, prepared(w, "refresh").tensor());
}

std::vector<std::byte> CudaBackend::contents(const PreparedMatrix& w) const {
  const Tensor& matrix = prepared(w, "contents").tensor();
  std::vector<std::byte> bytes(matrix.bytes());
  // Reading waits for the stream, which changes nothing that can be seen from outside.
  const_cast<CudaBackend*>(this)->copy_to_host(bytes.data(), matrix);
  return bytes;
}

// The library's GELU is used where its rounding to bf16 hides that it is an approximation; in float32, and
// for the other activations, the activation's own kernel follows, which reads what linear() without an
// activation would have stored.
void CudaBackend::linear(const Tensor& x, const PreparedMatrix& w, const Tensor& bias, Activation act,
                         const Tensor& pre, const Tensor& y) {
  const Tensor& matrix = prepared(w, "linear").tensor();
  const std::int64_t r = x.rows(), n = w.rows(), k = w.cols();
  require_shape(x, r, k, "linear", "x");
  require_shape(y, r, n, "linear", "y");
  require_result(y, matrix.dtype, "linear", "y");
  require_vector(bias, DType::f32, n, true, "linear", "bias");
  if (pre) require_same(pre, y, "linear", "pre and y");
  const bool fused = act == Activation::gelu_tanh && y.dtype == DType::bf16;
  const Tensor& sums = pre && !fused ? pre : y;
  Tensor factor = x, addend = bias;
  Converted converted;
  converted.add(factor, matrix.dtype);
  converted.add(addend, y.dtype);
  converted.make(*this);
  Product p;
  p.m = r, p.n = n, p.k = k;
  p.a = factor.data;
  p.b = matrix.data, p.transpose_b = true;
  p.factors = matrix.dtype;
  p.c = sums.data, p.result = y.dtype;
  p.bias = addend.data;
  p.gelu_tanh = fused;
  if (fused) p.pre = pre.data;
  products().run(p);
  if (fused) return;
  if (act != Activation::none)
    activation(act, sums, y);
  else if (pre)
    copy(pre, y);
}

namespace {

// dx = dy . W, `dy` already in the matrix' dtype.
Product backward_input(const Tensor& dy, const Tensor& matrix, const Tensor& dx) {
  Product p;
  p.m = dy.rows(), p.n = matrix.cols(), p.k = matrix.rows();
  p.a = dy.data;
  p.b = matrix.data;
  p.factors = matrix.dtype;
  p.c = dx.data, p.result = dx.dtype;
  return p;
}

const Tensor& backward_tensor(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                              const char* kernel) {
  const CudaMatrix& weights = prepared(w, kernel);
  require(weights.backward(), kernel, "the matrix was prepared without `backward`");
  require_shape(dy, dy.rows(), w.rows(), kernel, "dy");
  require_shape(dx, dy.rows(), w.cols(), kernel, "dx");
  require_result(dx, weights.tensor().dtype, kernel, "dx");
  return weights.tensor();
}

}  // namespace

void CudaBackend::linear_backward_input(const Tensor& dy, const PreparedMatrix& w, const Tensor& dx,
                                        bool accumulate) {
  const Tensor& matrix = backward_tensor(dy, w, dx, "linear_backward_input");
  Tensor factor = dy;
  Converted converted;
  converted.add(factor, matrix.dtype);
  converted.make(*this);
  Product p = backward_input(factor, matrix, dx);
  p.beta = accumulate ? 1 : 0;
  products().run(p);
}

// The library's GELU where linear() takes it: what was saved is what it stored there.
void CudaBackend::linear_activation_backward(const Tensor& dy, const PreparedMatrix& w, Activation act,
                                             const Tensor& saved, const Tensor& dx) {
  const Tensor& matrix = backward_tensor(dy, w, dx, "linear_activation_backward");
  require_same(saved, dx, "linear_activation_backward", "saved and dx");
  if (act != Activation::gelu_tanh || dx.dtype != DType::bf16 || dy.dtype != matrix.dtype)
    return Backend::linear_activation_backward(dy, w, act, saved, dx);
  Product p = backward_input(dy, matrix, dx);
  p.slope_at = saved.data;
  products().run(p);
}

namespace {

// dw (+)= dy^T . x, `dy` already in x' dtype.
Product backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw, bool accumulate) {
  Product p;
  p.m = dw.rows(), p.n = dw.cols(), p.k = x.rows();
  p.a = dy.data, p.transpose_a = true;
  p.b = x.data;
  p.factors = x.dtype;
  p.c = dw.data, p.result = DType::f32;
  p.beta = accumulate ? 1 : 0;
  return p;
}

}  // namespace

void CudaBackend::linear_backward_weight(const Tensor& dy, const Tensor& x, const Tensor& dw,
                                         bool accumulate) {
  require_shape(dy, x.rows(), dw.rows(), "linear_backward_weight", "dy");
  require_shape(x, x.rows(), dw.cols(), "linear_backward_weight", "x");
  require_float(dw, "linear_backward_weight", "dw");
  require(dw.dtype == DType::f32, "linear_backward_weight", "dw is not f32");
  Tensor factor = dy;
  Converted converted;
  converted.add(factor, x.dtype);
  converted.make(*this);
  products().run(backward_weight(factor, x, dw, accumulate));
}

void CudaBackend::matmul(const Tensor& a, bool transpose_a, const Tensor& b, bool transpose_b, float alpha,
                         float beta, const Tensor& c) {
  require(a.dtype == b.dtype, "matmul", "a and b have different dtypes");
  require(a.dtype == DType::f32 || a.dtype == DType::bf16 || a.dtype == DType::f16, "matmul",
          "a is neither f32 nor bf16 nor f16");
  require_result(c, a.dtype, "matmul", "c");
  const bool batched = c.shape.rank() == 3;
  const int first = batched ? 1 : 0;  // dimension
  require(a.shape.rank() == first + 2 && b.shape.rank() == first + 2 && c.shape.rank() == first + 2, "matmul",
          "a, b and c are neither all matrices nor all batches of matrices");
  Product p;
  p.batch = batched ? c.shape[0] : 1;
  p.m = c.shape[first], p.n = c.shape[first + 1];
  p.k = a.shape[transpose_a ? first : first + 1];
  if (a.shape[transpose_a ? first + 1 : first] != p.m || b.shape[transpose_b ? first : first + 1] != p.n ||
      b.shape[transpose_b ? first + 1 : first] != p.k ||
      (batched && (a.shape[0] != p.batch || b.shape[0] != p.batch)))
    throw std::logic_error(fmt::format("matmul: {}{} times {}{} is not {}", a.shape.str(),
                                       transpose_a ? "^T" : "", b.shape.str(), transpose_b ? "^T" : "",
                                       c.shape.str()));
  p.a = a.data, p.transpose_a = transpose_a;
  p.b = b.data, p.transpose_b = transpose_b;
  p.factors = a.dtype;
  p.c = c.data, p.result = c.dtype;
  p.alpha = alpha, p.beta = beta;
  products().run(p);
}

}  // namespace spectrain
