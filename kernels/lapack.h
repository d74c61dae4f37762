#pragma once

#include <cstdint>

// LAPACK's drivers, for float and double, as the factorisations of host_factors.h call them. Matrices are
// stored by columns here, as LAPACK has it: a [m,n] has m rows that lie next to each other. Nothing is
// allocated: memory to work in is handed over, and *_room() says how much of it. Room is asked for once and
// throws Error where a matrix is too large for LAPACK's 32-bit sizes; the drivers throw nothing and may be
// called by several threads at once. They return LAPACK's info: 0, or more than 0 when an iteration did not
// converge.
//
// Every driver works on the calling thread alone, whatever the library was built for, so that results do not
// depend on the number of threads (lapack.cpp says how).

namespace spectrain::lapack {

// Memory to work in: `elements` of T and `integers` of int.
struct Room {
  std::int64_t elements = 0, integers = 0;
};
template <class T>
struct Work {
  T* elements = nullptr;
  int* integers = nullptr;
  Room room;
};

// As many threads as may call at once: builds of OpenBLAS have places for 64.
inline constexpr int kMostCallers = 64;

// a [n,n] symmetric, its lower triangle read -> its eigenvectors as columns; values [n] ascending. (xSYEVD)
template <class T>
Room eigh_room(std::int64_t n);
template <class T>
int eigh(std::int64_t n, T* a, T* values, const Work<T>& work);

// a [m,n], m <= n, becomes Q [m,n] of a = L Q: orthonormal rows, L lower triangular with a diagonal >= 0.
// (xGELQF, xORGLQ)
template <class T>
Room rows_room(std::int64_t m, std::int64_t n);
template <class T>
int orthonormal_rows(std::int64_t m, std::int64_t n, T* a, const Work<T>& work);

// a [m,n] = U diag(s) Vt: s [r] descending, r = min(m,n); u [m,r], vt [r,n], or both null: s alone. a's
// contents are lost. Divide and conquer (xGESDD) is several times faster; the QR iteration (xGESVD) converges
// for some matrices for which the other does not.
template <class T>
Room svd_room(std::int64_t m, std::int64_t n);  // enough for either
template <class T>
int svd(std::int64_t m, std::int64_t n, T* a, T* s, T* u, T* vt, const Work<T>& work);
template <class T>
int svd_by_iteration(std::int64_t m, std::int64_t n, T* a, T* s, T* u, T* vt, const Work<T>& work);

}  // namespace spectrain::lapack
