#include <fmt/format.h>

#include <stdexcept>

#include "kernels/backend.h"

// How a backend that does not multiply eight-bit floats makes their products: of the rounded numbers, which
// it multiplies as it does all others.

namespace spectrain {
namespace {

class RoundedMatrix final : public PreparedMatrix {
 public:
  RoundedMatrix(double scale, std::unique_ptr<Buffer> memory, const Tensor& values, DType master)
      : scale_(scale), memory_(std::move(memory)), rounded_(memory_->view(master, values.shape)) {
    rows_ = values.rows();
    cols_ = values.cols();
  }
  double scale() const { return scale_; }
  const Tensor& rounded() const { return rounded_; }  // before they are prepared

  std::unique_ptr<PreparedMatrix> prepared;

 private:
  double scale_;
  std::unique_ptr<Buffer> memory_;
  Tensor rounded_;
};

const RoundedMatrix& rounded_matrix(const PreparedMatrix& w, const char* kernel) {
  const auto* matrix = dynamic_cast<const RoundedMatrix*>(&w);
  if (!matrix)
    throw std::logic_error(fmt::format("{}: the matrix was not prepared for eight-bit floats", kernel));
  return *matrix;
}

}  // namespace

std::size_t BackendSizes::prepared_fp8_bytes(Shape shape, DType compute) const {
  return prepared_bytes(shape, compute, true) + static_cast<std::size_t>(shape.numel()) * size_of(master());
}

std::unique_ptr<PreparedMatrix> Backend::prepare_fp8(double scale, const Tensor& values, DType compute) {
  auto memory = allocate(static_cast<std::size_t>(values.numel()) * size_of(master()), "a rounded matrix");
  auto matrix = std::make_unique<RoundedMatrix>(scale, std::move(memory), values, master());
  round_fp8(Fp8::e4m3, scale, values, matrix->rounded());
  matrix->prepared = prepare(matrix->rounded(), compute, true);
  return matrix;
}

void Backend::refresh_fp8(PreparedMatrix& w, const Tensor& values) {
  const RoundedMatrix& matrix = rounded_matrix(w, "refresh_fp8");
  round_fp8(Fp8::e4m3, matrix.scale(), values, matrix.rounded());
  refresh(*matrix.prepared, matrix.rounded());
}

Fp8Operand Backend::encode_fp8(Fp8 format, double scale, const Tensor& x, const PreparedMatrix&,
                               const Tensor& memory) {
  round_fp8(format, scale, x, memory);
  return {memory, format, scale, false};
}

void Backend::linear_fp8(const Fp8Operand& x, const PreparedMatrix& w, const Tensor& bias, const Tensor& y) {
  linear(x.memory, *rounded_matrix(w, "linear_fp8").prepared, bias, Activation::none, {}, y);
}

void Backend::linear_backward_input_fp8(const Fp8Operand& dy, const PreparedMatrix& w, const Tensor& dx,
                                        bool accumulate) {
  linear_backward_input(dy.memory, *rounded_matrix(w, "linear_backward_input_fp8").prepared, dx, accumulate);
}

void Backend::linear_backward_weight_fp8(const Fp8Operand& dy, const Fp8Operand& x, const Tensor& dw,
                                         bool accumulate) {
  linear_backward_weight(dy.memory, x.memory, dw, accumulate);
}

}  // namespace spectrain
