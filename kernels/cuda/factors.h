#pragma once

#include <functional>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_backend.h"
#include "kernels/host_factors.h"

namespace spectrain {

// A library's factorisations of matrices on the device, f32, stored by columns: cuSOLVER
// (factors_cusolver.cpp). Everything is put into the backend's stream. `work` is device memory of as many
// bytes as the function beside says. Each matrix gets an info in device memory: 0, or more than 0 when an
// iteration did not converge; it is up to the caller to look at it.
class FactorLibrary {
 public:
  virtual ~FactorLibrary() = default;

  // a [n,n] symmetric -> its eigenvectors as columns; values [n] ascending; `count` of each, one after the
  // other. Of work memory the library gets what it must have, and more, up to `budget`, for several matrices
  // at once.
  virtual std::size_t eigh_bytes(std::int64_t n, std::int64_t count, std::size_t budget) = 0;
  virtual void eigh(std::int64_t n, std::int64_t count, float* a, float* values, void* work,
                    std::size_t bytes, int* info) = 0;

  // a [m,n], m >= n: reflections below R (factor), which become Q (make); factors [n].
  virtual std::size_t columns_bytes(std::int64_t m, std::int64_t n) = 0;
  virtual void columns_factor(std::int64_t m, std::int64_t n, float* a, float* factors, void* work,
                              std::size_t bytes, int* info) = 0;
  virtual void columns_make(std::int64_t m, std::int64_t n, float* a, const float* factors, void* work,
                            std::size_t bytes, int* info) = 0;

  // a [m,n], m >= n, = U diag(s) Vt: u [m,n], s [n] descending, vt [n,n], or u and vt null: s alone.
  virtual std::size_t svd_bytes(std::int64_t m, std::int64_t n) = 0;
  virtual void svd(std::int64_t m, std::int64_t n, float* a, float* s, float* u, float* vt, void* work,
                   std::size_t bytes, int* info) = 0;
};

// Null with a reason, a clause without a full stop, where there is no such library.
std::unique_ptr<FactorLibrary> make_factor_library(CudaBackend& backend, std::string& why_not);

// What the CUDA backend keeps for factorisations.
struct CudaBackend::Factors {
  explicit Factors(CudaBackend& backend);

  void eigh(const Tensor& a, const Tensor& vectors, const Tensor& values);
  void orthonormal_columns(const Tensor& a);
  void svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt);

  std::vector<std::string> notes;

 private:
  struct Memory;  // what a call has, laid out
  Memory memory_for(const Tensor& a, std::size_t library_bytes);
  // Waits, and throws Error for the first matrix that has no result.
  void check(const Tensor& a, const Memory& memory, const char* what);
  void svd_of(const Memory& memory, const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt);
  // Without a library: the tensors go to the host and come back.
  void on_host(std::initializer_list<Tensor> tensors,
               const std::function<void(std::span<const Tensor>)>& work);

  CudaBackend& backend_;
  std::unique_ptr<FactorLibrary> library_;
  std::unique_ptr<HostFactors> host_;
  std::unique_ptr<Buffer> buffer_;
  std::vector<std::int32_t> answers_;
};

}  // namespace spectrain
