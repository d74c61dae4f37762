#include "kernels/host_factors.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/parallel.h"
#include "kernels/factor_checks.h"
#include "kernels/lapack.h"

namespace spectrain {
namespace {

constexpr std::size_t kLine = 64;  // no two threads write into one cache line

std::size_t lines(std::size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

template <class T>
std::size_t bytes_of(const lapack::Room& room) {
  return lines(static_cast<std::size_t>(room.elements) * sizeof(T)) +
         lines(static_cast<std::size_t>(room.integers) * sizeof(int));
}

template <class T>
lapack::Work<T> work_in(std::byte* memory, const lapack::Room& room) {
  return {reinterpret_cast<T*>(memory),
          reinterpret_cast<int*>(memory + lines(static_cast<std::size_t>(room.elements) * sizeof(T))), room};
}

// Of one matrix [m,n], by rows: LAPACK sees [n,m].
template <class T>
std::size_t bytes_for(std::int64_t m, std::int64_t n) {
  // The copy is for the second try, since the first loses the matrix.
  std::size_t most =
      bytes_of<T>(lapack::svd_room<T>(n, m)) + lines(static_cast<std::size_t>(m * n) * sizeof(T));
  if (m == n) most = std::max(most, bytes_of<T>(lapack::eigh_room<T>(n)));
  if (m >= n) most = std::max(most, bytes_of<T>(lapack::rows_room<T>(n, m)));
  return most;
}

template <class T>
bool all_finite(const T* x, std::int64_t n) {
  bool finite = true;
  for (std::int64_t i = 0; i < n; ++i) finite &= std::isfinite(x[i]);
  return finite;
}

template <class T>
void turn_row(T* x, std::int64_t n) {
  T largest = 0;
  for (std::int64_t i = 0; i < n; ++i)
    if (std::fabs(x[i]) > std::fabs(largest)) largest = x[i];
  if (largest < 0)
    for (std::int64_t i = 0; i < n; ++i) x[i] = -x[i];
}

// The columns of u [m,r] and with them the rows of vt [r,n]; `largest` [r] is memory to work in.
template <class T>
void turn_columns(T* u, std::int64_t m, std::int64_t r, T* vt, std::int64_t n, T* largest) {
  std::fill_n(largest, r, T(0));
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t k = 0; k < r; ++k)
      if (std::fabs(u[i * r + k]) > std::fabs(largest[k])) largest[k] = u[i * r + k];
  for (std::int64_t i = 0; i < m; ++i)
    for (std::int64_t k = 0; k < r; ++k)
      if (largest[k] < 0) u[i * r + k] = -u[i * r + k];
  for (std::int64_t k = 0; k < r; ++k)
    if (largest[k] < 0)
      for (std::int64_t j = 0; j < n; ++j) vt[k * n + j] = -vt[k * n + j];
}

template <class T>
void transpose_square(T* x, std::int64_t n) {
  constexpr std::int64_t kTile = 32;  // two tiles of doubles fit into the first cache
  for (std::int64_t i0 = 0; i0 < n; i0 += kTile)
    for (std::int64_t j0 = 0; j0 <= i0; j0 += kTile)
      for (std::int64_t i = i0; i < std::min(i0 + kTile, n); ++i)
        for (std::int64_t j = j0; j < std::min(j0 + kTile, i); ++j) std::swap(x[i * n + j], x[j * n + i]);
}

// The i-th of a batch.
template <class T>
T* part(const Tensor& t, std::int64_t i, std::int64_t elements) {
  return t ? t.as<T>() + i * elements : nullptr;
}

}  // namespace

HostFactors::HostFactors(int threads, std::function<std::unique_ptr<Buffer>(std::size_t)> allocate)
    : threads_(std::min(threads, lapack::kMostCallers)), allocate_(std::move(allocate)) {}

std::size_t HostFactors::bytes(Shape batch, DType dtype, int threads) {
  const Tensor a(nullptr, dtype, batch);
  const std::int64_t count = matrices_of(a, "factor_bytes");
  if (batch.numel() == 0) return 0;
  const std::int64_t n = batch.cols(), m = batch.rows() / count;
  const auto callers = std::min<std::int64_t>({threads, lapack::kMostCallers, count});
  return static_cast<std::size_t>(callers) *
         (dtype == DType::f64 ? bytes_for<double>(m, n) : bytes_for<float>(m, n));
}

template <class Body>
void HostFactors::each(const Tensor& a, const char* what, const Body& body) {
  const std::int64_t count = matrices_of(a, what);
  const std::size_t needed = bytes(a.shape, a.dtype, threads_);
  if (!memory_ || memory_->bytes() < needed) {
    memory_.reset();  // first, or there would be both for a moment
    memory_ = allocate_(needed);
  }
  const std::size_t share = needed / static_cast<std::size_t>(std::min<std::int64_t>(threads_, count));
  outcomes_.assign(static_cast<std::size_t>(count), Outcome::done);
  parallel_tasks(threads_, count, [&](std::int64_t i, int thread) {
    outcomes_[static_cast<std::size_t>(i)] =
        body(i, static_cast<std::byte*>(memory_->data()) + share * static_cast<std::size_t>(thread));
  });
  for (std::int64_t i = 0; i < count; ++i) {
    if (outcomes_[static_cast<std::size_t>(i)] == Outcome::not_finite) throw_not_finite(a, i, what);
    if (outcomes_[static_cast<std::size_t>(i)] == Outcome::not_converged) throw_not_converged(a, i, what);
  }
}

template <class T>
void HostFactors::eigh_of(const Tensor& a, const Tensor& vectors, const Tensor& values) {
  const std::int64_t n = a.cols();
  const lapack::Room room = lapack::eigh_room<T>(n);
  each(a, "eigendecomposition", [&](std::int64_t i, std::byte* memory) {
    T *const v = part<T>(vectors, i, n * n), *const w = part<T>(values, i, n);
    const T* const x = part<T>(a, i, n * n);
    if (!all_finite(x, n * n)) return Outcome::not_finite;  // some iterations would never end
    if (v != x) std::copy_n(x, n * n, v);
    if (lapack::eigh(n, v, w, work_in<T>(memory, room)) != 0 || !all_finite(w, n))
      return Outcome::not_converged;
    for (std::int64_t j = 0; j < n; ++j) turn_row(v + j * n, n);
    transpose_square(v, n);
    return Outcome::done;
  });
}

template <class T>
void HostFactors::orthonormal_columns_of(const Tensor& a) {
  const std::int64_t n = a.cols(), m = a.rows() / matrices_of(a, "orthonormal_columns");
  const lapack::Room room = lapack::rows_room<T>(n, m);
  each(a, "QR decomposition", [&](std::int64_t i, std::byte* memory) {
    T* const x = part<T>(a, i, m * n);
    if (!all_finite(x, m * n)) return Outcome::not_finite;
    return lapack::orthonormal_rows(n, m, x, work_in<T>(memory, room)) == 0 ? Outcome::done
                                                                            : Outcome::not_converged;
  });
}

template <class T>
void HostFactors::svd_of(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) {
  const std::int64_t n = a.cols(), m = a.rows() / matrices_of(a, "svd"), r = std::min(m, n);
  const lapack::Room room = lapack::svd_room<T>(n, m);
  each(a, "singular value decomposition", [&](std::int64_t i, std::byte* memory) {
    T *const x = part<T>(a, i, m * n), *const values = part<T>(s, i, r), *const left = part<T>(u, i, m * r),
             *const right = part<T>(vt, i, r * n);
    if (!all_finite(x, m * n)) return Outcome::not_finite;
    const lapack::Work<T> work = work_in<T>(memory, room);
    T* const copy = reinterpret_cast<T*>(memory + bytes_of<T>(room));
    std::copy_n(x, m * n, copy);
    if (lapack::svd(n, m, x, values, right, left, work) != 0 || !all_finite(values, r))
      if (lapack::svd_by_iteration(n, m, copy, values, right, left, work) != 0 || !all_finite(values, r))
        return Outcome::not_converged;
    if (left) turn_columns(left, m, r, right, n, work.elements);
    return Outcome::done;
  });
}

void HostFactors::eigh(const Tensor& a, const Tensor& vectors, const Tensor& values) {
  require_eigh(a, vectors, values);
  if (a.numel() == 0) return;
  if (a.dtype == DType::f64)
    eigh_of<double>(a, vectors, values);
  else
    eigh_of<float>(a, vectors, values);
}

void HostFactors::orthonormal_columns(const Tensor& a) {
  require_orthonormal_columns(a);
  if (a.numel() == 0) return;
  if (a.dtype == DType::f64)
    orthonormal_columns_of<double>(a);
  else
    orthonormal_columns_of<float>(a);
}

void HostFactors::svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt) {
  require_svd(a, u, s, vt);
  if (a.numel() == 0) return;
  if (a.dtype == DType::f64)
    svd_of<double>(a, u, s, vt);
  else
    svd_of<float>(a, u, s, vt);
}

}  // namespace spectrain
