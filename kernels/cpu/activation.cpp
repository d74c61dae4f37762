#include "kernels/cpu/isa/activation.h"

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {
namespace {

std::size_t dtype_index(const Tensor& t) { return t.dtype == DType::bf16 ? 1 : 0; }

std::byte* at(const Tensor& t, std::int64_t element) {
  return static_cast<std::byte*>(t.data) + element * static_cast<std::int64_t>(size_of(t.dtype));
}

// Rows per piece so that a piece holds about kElementGrain elements.
std::int64_t row_grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, kElementGrain / std::max<std::int64_t>(1, cols));
}

}  // namespace

void CpuBackend::activation(Activation act, const Tensor& x, const Tensor& y) {
  require_compute(x, "activation", "x");
  require_same(x, y, "activation", "x and y");
  const auto kernel =
      SPECTRAIN_ISA_SELECT(activation_table).forward[dtype_index(x)][static_cast<std::size_t>(act)];
  parallel_ranges(threads_, x.numel(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
    kernel(at(x, begin), at(y, begin), end - begin);
  });
}

void CpuBackend::activation_backward(Activation act, const Tensor& dy, const Tensor& saved,
                                     const Tensor& dx) {
  require_compute(dy, "activation_backward", "dy");
  require_same(dy, dx, "activation_backward", "dy and dx");
  require_same(dy, saved, "activation_backward", "dy and the saved tensor");
  const auto kernel =
      SPECTRAIN_ISA_SELECT(activation_table).backward[dtype_index(dy)][static_cast<std::size_t>(act)];
  parallel_ranges(threads_, dy.numel(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
    kernel(at(dy, begin), at(saved, begin), at(dx, begin), end - begin);
  });
}

void CpuBackend::swiglu(const Tensor& x, const Tensor& y) {
  require_compute(x, "swiglu", "x");
  require(x.dtype == y.dtype && x.rows() == y.rows() && x.cols() == 2 * y.cols(), "swiglu",
          "x must be [R,2F] and y [R,F] of one dtype");
  const std::int64_t F = y.cols();
  const auto kernel = SPECTRAIN_ISA_SELECT(activation_table).swiglu[dtype_index(x)];
  parallel_ranges(threads_, y.rows(), row_grain(4 * F), [&](std::int64_t begin, std::int64_t end) {
    kernel(at(x, begin * 2 * F), at(y, begin * F), end - begin, F);
  });
}

void CpuBackend::swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) {
  require_compute(x, "swiglu_backward", "x");
  require_same(x, dx, "swiglu_backward", "x and dx");
  require(x.dtype == dy.dtype && x.rows() == dy.rows() && x.cols() == 2 * dy.cols(), "swiglu_backward",
          "x must be [R,2F] and dy [R,F] of one dtype");
  const std::int64_t F = dy.cols();
  const auto kernel = SPECTRAIN_ISA_SELECT(activation_table).swiglu_backward[dtype_index(x)];
  parallel_ranges(threads_, dy.rows(), row_grain(4 * F), [&](std::int64_t begin, std::int64_t end) {
    kernel(at(dy, begin * F), at(x, begin * 2 * F), at(dx, begin * 2 * F), end - begin, F);
  });
}

void CpuBackend::add(const Tensor& a, const Tensor& b, const Tensor& y) {
  require_compute(a, "add", "a");
  require_same(a, b, "add", "a and b");
  require_same(a, y, "add", "a and y");
  const auto kernel = SPECTRAIN_ISA_SELECT(activation_table).add[dtype_index(a)];
  parallel_ranges(threads_, a.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    kernel(at(a, begin), at(b, begin), at(y, begin), end - begin);
  });
}

void CpuBackend::scale(const Tensor& x, double factor, const Tensor& y) {
  require_compute(x, "scale", "x");
  require_same(x, y, "scale", "x and y");
  const auto kernel = SPECTRAIN_ISA_SELECT(activation_table).scale[dtype_index(x)];
  parallel_ranges(threads_, x.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    kernel(at(x, begin), static_cast<float>(factor), at(y, begin), end - begin);
  });
}

}  // namespace spectrain
