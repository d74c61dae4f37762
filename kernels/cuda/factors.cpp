#include "kernels/cuda/factors.h"

#include <algorithm>
#include <thread>

#include "kernels/cuda/cuda_error.h"
#include "kernels/cuda/factor_kernels.h"
#include "kernels/factor_checks.h"

// Factorisations on the device, by a library that stores matrices by columns: it sees the transpose of what
// we mean. For a symmetric matrix that is the same, for an SVD it makes U and V^T change places, and a QR
// decomposition needs a transposed copy.
//
// Whether an iteration converged must be known before its result is used, and the contract makes it an error:
// the host waits once for each call, whatever the number of matrices. So factorisations cannot be recorded.

namespace spectrain {
namespace {

float* at(const Tensor& t, std::int64_t i, std::int64_t elements) {
  return t ? t.as<float>() + i * elements : nullptr;
}

class HostMemory final : public Buffer {
 public:
  explicit HostMemory(std::size_t bytes) : memory_(new std::byte[bytes]) {
    data_ = memory_.get();
    bytes_ = bytes;
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
};

}  // namespace

// As much of each as CudaSizes::factor_parts says.
struct CudaBackend::Factors::Memory {
  std::int64_t count = 0, m = 0, n = 0, r = 0;  // matrices, their shape, and the less of m and n
  std::int32_t* answers = nullptr;  // [count] matrices that are not finite, [2 count] what the library says
  float* signs = nullptr;           // [count, r]
  float* factors = nullptr;         // [r]
  float *copy = nullptr, *left = nullptr, *right = nullptr;  // of one matrix: transposed, U^T, V
  void* library = nullptr;
  std::size_t library_bytes = 0;

  std::int32_t* info(std::int64_t i = 0) const { return answers + count + i; }
};

CudaBackend::Factors::Factors(CudaBackend& backend) : backend_(backend) {
  std::string why_not = "cuSOLVER was switched off";
  if (backend.options().cusolver) library_ = make_factor_library(backend, why_not);
  if (library_) return;
  notes.push_back("Eigenvectors, QR and singular value decompositions are computed on the CPU: " + why_not +
                  ".");
  host_ =
      std::make_unique<HostFactors>(static_cast<int>(std::max(1u, std::thread::hardware_concurrency())),
                                    [](std::size_t bytes) { return std::make_unique<HostMemory>(bytes); });
}

CudaBackend::Factors::Memory CudaBackend::Factors::memory_for(const Tensor& a, std::size_t library_bytes) {
  if (backend_.recording())
    throw std::logic_error("a factorisation cannot be recorded: the host waits for its outcome");
  CudaSizes::FactorParts parts = CudaSizes::factor_parts(a.shape);
  parts.library = std::max(parts.library, library_bytes);
  if (!buffer_ || buffer_->bytes() < parts.total()) {
    buffer_.reset();  // first, or there would be both for a moment
    buffer_ = backend_.allocate(parts.total(), "work memory of factorisations");
  }
  Memory memory;
  memory.count = matrices_of(a, "factorisation");
  memory.n = a.cols();
  memory.m = a.rows() / memory.count;
  memory.r = std::min(memory.m, memory.n);
  auto* next = static_cast<std::byte*>(buffer_->data());
  const auto take = [&next]<class T>(T*& pointer, std::size_t bytes) {
    pointer = reinterpret_cast<T*>(next);
    next += bytes;
  };
  take(memory.answers, parts.answers);
  take(memory.signs, parts.signs);
  take(memory.factors, parts.factors);
  take(memory.copy, parts.copy);
  take(memory.left, parts.left);
  take(memory.right, parts.right);
  memory.library = next;
  memory.library_bytes = parts.library;
  check_cuda(cudaMemsetAsync(memory.answers, 0, parts.answers, backend_.stream()), "clearing memory");
  return memory;
}

void CudaBackend::Factors::check(const Tensor& a, const Memory& memory, const char* what) {
  answers_.resize(static_cast<std::size_t>(3 * memory.count));
  backend_.copy_to_host(answers_.data(), Tensor(memory.answers, DType::i32, {3 * memory.count}));
  const std::int32_t *const bad = answers_.data(), *const info = bad + memory.count;
  for (std::int64_t i = 0; i < memory.count; ++i) {
    if (bad[i] != 0) throw_not_finite(a, i, what);
    for (const std::int32_t said : {info[i], info[i + memory.count]}) {
      if (said > 0) throw_not_converged(a, i, what);
      if (said < 0) throw std::logic_error(std::string("a factorisation with a wrong argument: ") + what);
    }
  }
}

void CudaBackend::Factors::eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) {
  if (!library_)
    return on_host({a, vectors, values}, [&](std::span<const Tensor> t) { host_->eigh(t[0], t[1], t[2]); });
  const std::int64_t n = a.cols(), count = matrices_of(a, "eigh");
  const std::size_t planned = CudaSizes::factor_parts(a.shape).library;
  const Memory memory = memory_for(a, library_->eigh_bytes(n, count, planned));
  backend_.copy(a, vectors);
  float* const v = vectors.as<float>();
  zero_unless_finite(backend_, count, n * n, v, memory.answers);
  library_->eigh(n, count, v, values.as<float>(), memory.library, memory.library_bytes, memory.info());
  transpose_squares(backend_, count, n, v);
  column_signs(backend_, count, n, n, v, memory.signs);
  turn_columns(backend_, count, n, n, memory.signs, v);
  check(a, memory, "eigendecomposition");
}

void CudaBackend::Factors::orthonormal_columns(const Tensor& a) {
  if (!library_) return on_host({a}, [&](std::span<const Tensor> t) { host_->orthonormal_columns(t[0]); });
  const std::int64_t n = a.cols(), m = a.shape[a.shape.rank() - 2];
  const Memory memory = memory_for(a, library_->columns_bytes(m, n));
  zero_unless_finite(backend_, memory.count, m * n, a.as<float>(), memory.answers);
  const Tensor copy(memory.copy, DType::f32, {n, m});
  for (std::int64_t i = 0; i < memory.count; ++i) {
    const Tensor matrix(at(a, i, m * n), DType::f32, {m, n});
    backend_.transpose(matrix, copy);
    library_->columns_factor(m, n, memory.copy, memory.factors, memory.library, memory.library_bytes,
                             memory.info(i));
    signs_of(backend_, n, m + 1, memory.copy, memory.signs + i * n);  // of R's diagonal
    library_->columns_make(m, n, memory.copy, memory.factors, memory.library, memory.library_bytes,
                           memory.info(memory.count + i));
    backend_.transpose(copy, matrix);
  }
  turn_columns(backend_, memory.count, m, n, memory.signs, a.as<float>());
  check(a, memory, "QR decomposition");
}

void CudaBackend::Factors::svd_of(const Memory& memory, const Tensor& a, const Tensor& u, const Tensor& s,
                                  const Tensor& vt) {
  const std::int64_t m = memory.m, n = memory.n, r = memory.r;
  const auto tensor = [](float* p, std::int64_t rows, std::int64_t cols) {
    return Tensor(p, DType::f32, {rows, cols});
  };
  for (std::int64_t i = 0; i < memory.count; ++i) {
    float *const x = at(a, i, m * n), *const values = at(s, i, r), *const left = at(u, i, m * r),
                 *const right = at(vt, i, r * n);
    const auto compute = [&](std::int64_t rows, std::int64_t cols, float* matrix, float* first,
                             float* second) {
      library_->svd(rows, cols, matrix, values, first, second, memory.library, memory.library_bytes,
                    memory.info(i));
    };
    if (n >= m) {  // the library sees a^T = V diag(s) U^T, with as many rows as it wants
      compute(n, m, x, right, left);
      continue;
    }
    backend_.transpose(tensor(x, m, n), tensor(memory.copy, n, m));
    compute(m, n, memory.copy, left ? memory.left : nullptr, left ? memory.right : nullptr);
    if (!left) continue;
    backend_.transpose(tensor(memory.left, r, m), tensor(left, m, r));
    backend_.transpose(tensor(memory.right, n, r), tensor(right, r, n));
  }
}

void CudaBackend::Factors::svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) {
  if (!library_)
    return on_host({a, u, s, vt}, [&](std::span<const Tensor> t) { host_->svd(t[0], t[1], t[2], t[3]); });
  const std::int64_t n = a.cols(), m = a.shape[a.shape.rank() - 2];
  const Memory memory = memory_for(a, library_->svd_bytes(std::max(m, n), std::min(m, n)));
  zero_unless_finite(backend_, memory.count, m * n, a.as<float>(), memory.answers);
  svd_of(memory, a, u, s, vt);
  if (u) {
    column_signs(backend_, memory.count, m, memory.r, u.as<float>(), memory.signs);
    turn_columns(backend_, memory.count, m, memory.r, memory.signs, u.as<float>());
    turn_rows(backend_, memory.count, memory.r, n, memory.signs, vt.as<float>());
  }
  check(a, memory, "singular value decomposition");
}

void CudaBackend::Factors::on_host(std::initializer_list<Tensor> tensors,
                                   const std::function<void(std::span<const Tensor>)>& work) {
  if (backend_.recording())
    throw std::logic_error("a factorisation cannot be recorded: the host computes it");
  std::vector<std::vector<std::byte>> memory;
  std::vector<Tensor> there;
  for (const Tensor& t : tensors) {
    memory.emplace_back(t ? t.bytes() : 0);
    if (t) backend_.copy_to_host(memory.back().data(), t);
    there.emplace_back(t ? memory.back().data() : nullptr, t.dtype, t.shape);
  }
  work(there);
  std::size_t i = 0;
  for (const Tensor& t : tensors) {
    // Of a matrix and its vectors in one place the later ones stay.
    if (t) backend_.copy_from_host(t, memory[i].data());
    ++i;
  }
}

// ---- the backend's

CudaBackend::Factors& CudaBackend::factors() {
  if (!factors_) factors_ = std::make_unique<Factors>(*this);
  return *factors_;
}

void CudaBackend::eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) {
  require_eigh(a, vectors, values);
  if (a.numel() > 0) factors().eigh(a, vectors, values);
}

void CudaBackend::orthonormal_columns(const Tensor& a) {
  require_orthonormal_columns(a);
  if (a.numel() > 0) factors().orthonormal_columns(a);
}

void CudaBackend::svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) {
  require_svd(a, u, s, vt);
  if (a.numel() > 0) factors().svd(a, u, s, vt);
}

}  // namespace spectrain
