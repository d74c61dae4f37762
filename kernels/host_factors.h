#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "kernels/backend.h"

namespace spectrain {

// The FactorKernels (backend.h) of backends whose memory the host can read, through LAPACK: f32 or f64, one
// matrix or a batch of them. Matrices of a batch are shared among threads, each computed by one: results do
// not depend on the number of threads.
//
// LAPACK stores matrices by columns, so what it sees is the transpose of what we mean, and that decides what
// it is asked for: rows instead of columns, an SVD whose U and V^T change places.
//
// Signs, which a factorisation leaves open, are fixed: of an eigenvector and of a column of U the component
// of largest magnitude, the first of equals, is positive, and the row of Vt follows its column of U.
class HostFactors {
 public:
  // `allocate` gives the memory to work in; it is kept, and grows to the most that a shape takes.
  HostFactors(int threads, std::function<std::unique_ptr<Buffer>(std::size_t bytes)> allocate);

  void eigh(const Tensor& a, const Tensor& vectors, const Tensor& values);
  void orthonormal_columns(const Tensor& a);
  void svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt);

  // Of the memory to work in for batches [B,m,n] or a matrix [m,n]: enough for every factorisation that takes
  // such a shape. Throws Error where a matrix is too large for LAPACK.
  static std::size_t bytes(Shape batch, DType dtype, int threads);

 private:
  enum class Outcome : std::uint8_t { done, not_finite, not_converged };
  // Calls body(matrix, its thread's memory), which returns an Outcome, for each of the batch; throws Error
  // for the first that is not done.
  template <class Body>
  void each(const Tensor& a, const char* what, const Body& body);
  template <class T>
  void eigh_of(const Tensor& a, const Tensor& vectors, const Tensor& values);
  template <class T>
  void orthonormal_columns_of(const Tensor& a);
  template <class T>
  void svd_of(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt);

  int threads_;
  std::function<std::unique_ptr<Buffer>(std::size_t)> allocate_;
  std::unique_ptr<Buffer> memory_;
  std::vector<Outcome> outcomes_;
};

}  // namespace spectrain
