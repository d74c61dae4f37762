#include <fmt/format.h>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/matrix_state.h"
#include "kernels/cpu/parallel.h"

// Weights in the layouts the products read, and the products that go through oneDNN.

namespace spectrain {
namespace {

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

}  // namespace

CpuBackend::Matrices& CpuBackend::matrices() {
  if (!matrices_) matrices_ = std::make_unique<Matrices>(*this);
  return *matrices_;
}

std::unique_ptr<PreparedMatrix> CpuBackend::prepare(const Tensor& master, DType compute, bool backward) {
  require_compute(master, "prepare", "master");
  require(compute == DType::f32 || compute == DType::bf16, "prepare", "compute is neither f32 nor bf16");
  const std::int64_t n = master.rows(), k = master.cols();
  auto matrix = std::make_unique<Matrices::Prepared>(n, k);
  const MatrixMachine& machine = matrices().machine();
  matrix->compute = compute;
  matrix->engine = choose_engine(machine, compute);
  const std::string name = fmt::format("a prepared matrix {}", master.shape.str());
  matrix->forward = allocate(Matrices::layout_bytes(machine, k, n, compute), name);
  if (backward) matrix->backward = allocate(Matrices::layout_bytes(machine, n, k, compute), name);
  matrices().pack(master, *matrix);
  return matrix;
}

std::size_t CpuBackend::prepared_bytes(Shape shape, DType compute, bool backward) const {
  const MatrixMachine machine = matrices_ ? matrices_->machine() : matrix_machine(use_onednn_);
  return Matrices::layout_bytes(machine, shape.cols(), shape.rows(), compute) +
         (backward ? Matrices::layout_bytes(machine, shape.rows(), shape.cols(), compute) : 0);
}

void CpuBackend::refresh(PreparedMatrix& w, const Tensor& master) {
  require_compute(master, "refresh", "master");
  auto* matrix = dynamic_cast<Matrices::Prepared*>(&w);
  require(matrix != nullptr, "refresh", "the matrix was prepared by another backend");
  require(master.rows() == w.rows() && master.cols() == w.cols(), "refresh", "master has another shape");
  matrices().pack(master, *matrix);
}

std::vector<std::byte> CpuBackend::contents(const PreparedMatrix& w) const {
  const auto* matrix = dynamic_cast<const Matrices::Prepared*>(&w);
  require(matrix != nullptr, "contents", "the matrix was prepared by another backend");
  // The backward layout is made from the same numbers.
  const auto* first = static_cast<const std::byte*>(matrix->forward->data());
  return {first, first + matrix->forward->bytes()};
}

std::size_t CpuBackend::Matrices::layout_bytes(const MatrixMachine& machine, std::int64_t k, std::int64_t n,
                                               DType compute) {
  if (choose_engine(machine, compute) == MatrixEngine::onednn)
    return OnednnProducts::packed_bytes(k, n, compute);
  const GemmKernels& kernels = kernels_for(machine.isa, compute);
  return static_cast<std::size_t>(ceil_div(n, kernels.cols) * kernels.cols * ceil_div(k, kernels.k_step)) * 4;
}

void CpuBackend::Matrices::pack(const Tensor& master, Prepared& matrix) {
  const std::int64_t n = matrix.rows(), k = matrix.cols();
  if (matrix.engine == MatrixEngine::onednn) {
    onednn_.pack_weights(master, true, k, n, matrix.compute, matrix.forward->data());
    if (matrix.backward) onednn_.pack_weights(master, false, n, k, matrix.compute, matrix.backward->data());
    return;
  }
  const GemmKernels& kernels = kernels_for(matrix.compute);
  const bool bf16 = master.dtype == DType::bf16, round = matrix.compute == DType::bf16;
  const GemmSource forward{master.data, k, bf16, false, round}, backward{master.data, k, bf16, true, round};
  const std::int64_t forward_panels = ceil_div(n, kernels.cols);
  const std::int64_t panels = forward_panels + (matrix.backward ? ceil_div(k, kernels.cols) : 0);
  const int team = n * k < 32768 ? 1 : backend_.threads();
  parallel_tasks(team, panels, [&](std::int64_t i, int) {
    if (i < forward_panels)
      kernels.pack(forward, n, k, i, i + 1, matrix.forward->data());
    else
      kernels.pack(backward, k, n, i - forward_panels, i - forward_panels + 1, matrix.backward->data());
  });
}

void* CpuBackend::Matrices::grown(std::unique_ptr<Buffer>& buffer, std::size_t bytes) {
  if (!buffer || buffer->bytes() < bytes) {
    buffer.reset();
    buffer = backend_.allocate(bytes, "workspace of the matrix products");
  }
  return buffer->data();
}

Tensor CpuBackend::Matrices::in_dtype(const Tensor& t, DType compute, std::unique_ptr<Buffer>& place) {
  if (!t || t.dtype == compute) return t;
  const Tensor converted(grown(place, static_cast<std::size_t>(t.numel()) * size_of(compute)), compute,
                         t.shape);
  backend_.copy(t, converted);
  return converted;
}

void CpuBackend::Matrices::multiply_onednn(OnednnProduct p, DType compute) {
  if (p.m == 0 || p.n == 0) return;
  p.a = in_dtype(p.a, compute, copy_a_);
  p.b = in_dtype(p.b, compute, copy_b_);
  if (p.alpha == 1 && (p.beta == 0 || p.beta == 1)) return onednn_.multiply(p);
  // oneDNN's products take factors as constants of the primitive, and an optimizer has too many of them.
  const Tensor c = p.c;
  const float alpha = p.alpha, beta = p.beta;
  p.c = Tensor(grown(sums_, static_cast<std::size_t>(c.numel()) * 4), DType::f32, c.shape);
  p.alpha = 1, p.beta = 0;
  onednn_.multiply(p);
  if (beta == 0) backend_.fill(c, 0);
  backend_.axpby(alpha, p.c, beta == 0 ? 1 : beta, c);
}

}  // namespace spectrain
