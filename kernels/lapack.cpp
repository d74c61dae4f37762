#include "kernels/lapack.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <mutex>

#include "kernels/cpu/parallel.h"
#include "kernels/error.h"

// LAPACK is Fortran: every argument by address, and the lengths of texts at the end.
extern "C" {
#define SPECTRAIN_LAPACK(T, x)                                                                               \
  void x##syevd_(const char*, const char*, const int*, T*, const int*, T*, T*, const int*, int*, const int*, \
                 int*, std::size_t, std::size_t);                                                            \
  void x##gelqf_(const int*, const int*, T*, const int*, T*, T*, const int*, int*);                          \
  void x##orglq_(const int*, const int*, const int*, T*, const int*, const T*, T*, const int*, int*);        \
  void x##gesdd_(const char*, const int*, const int*, T*, const int*, T*, T*, const int*, T*, const int*,    \
                 T*, const int*, int*, int*, std::size_t);                                                   \
  void x##gesvd_(const char*, const char*, const int*, const int*, T*, const int*, T*, T*, const int*, T*,   \
                 const int*, T*, const int*, int*, std::size_t, std::size_t)
SPECTRAIN_LAPACK(float, s);
SPECTRAIN_LAPACK(double, d);
#undef SPECTRAIN_LAPACK
}

namespace spectrain::lapack {
namespace {

template <class T>
struct Symbols;
#define SPECTRAIN_LAPACK(T, x)               \
  template <>                                \
  struct Symbols<T> {                        \
    static constexpr auto syevd = x##syevd_; \
    static constexpr auto gelqf = x##gelqf_; \
    static constexpr auto orglq = x##orglq_; \
    static constexpr auto gesdd = x##gesdd_; \
    static constexpr auto gesvd = x##gesvd_; \
  }
SPECTRAIN_LAPACK(float, s);
SPECTRAIN_LAPACK(double, d);
#undef SPECTRAIN_LAPACK

// What the library behind LAPACK's names is, and what calling it takes. OpenBLAS, ten times as fast as the
// reference, comes in three builds:
//   sequential  has no locks around its memory in the distributions' builds: two threads in it at once get
//               wrong results now and then (0.3.21, seen in 14 of 2000 eigendecompositions). One at a time.
//   threads     would share one matrix among threads of its own. Told not to.
//   OpenMP      would do so with OpenMP's, as many as the calling thread may start: one (Turn).
// Everything else, the reference first, computes on the calling thread and may be called by many.
bool one_at_a_time() {
  const auto find = [](const char* name) { return dlsym(RTLD_DEFAULT, name); };
  const auto parallel = reinterpret_cast<int (*)()>(find("openblas_get_parallel"));
  if (!parallel) return false;
  if (parallel() == 1)
    if (const auto set_threads = reinterpret_cast<void (*)(int)>(find("openblas_set_num_threads")))
      set_threads(1);
  return parallel() == 0;
}

class Turn {
 public:
  Turn() : threads_(omp_get_max_threads()) {
    static const bool alone = one_at_a_time();
    if (alone) lock_ = std::unique_lock(mutex());
    omp_set_num_threads(1);
  }
  ~Turn() { omp_set_num_threads(threads_); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  int threads_;
  std::unique_lock<std::mutex> lock_;
};

void require_small(std::int64_t m, std::int64_t n, std::int64_t elements) {
  if (std::max({elements, m, n}) > std::numeric_limits<int>::max())
    throw Error(
        fmt::format("a matrix [{}, {}] is too large for LAPACK, whose sizes have 32 bits: give it to an "
                    "optimizer that does not factorise",
                    m, n));
}

int narrow(std::int64_t n) { return static_cast<int>(n); }
int rank_of(std::int64_t m, std::int64_t n) { return narrow(std::max<std::int64_t>(std::min(m, n), 1)); }
int leading(std::int64_t rows) { return narrow(std::max<std::int64_t>(rows, 1)); }

// A query's answer comes as a T, rounded perhaps to less than was meant.
template <class T>
std::int64_t rounded_up(T answer) {
  return static_cast<std::int64_t>(
      std::ceil(static_cast<double>(answer) * (1 + static_cast<double>(std::numeric_limits<T>::epsilon()))));
}

constexpr int kQuery = -1;

}  // namespace

template <class T>
Room eigh_room(std::int64_t n) {
  const std::int64_t least = 1 + 6 * n + 2 * n * n;  // the manual's
  require_small(n, n, least);
  const int size = narrow(n), ld = leading(n);
  T answer = 0, unused = 0;
  int integers = 0, info = 0;
  const Turn turn;
  Symbols<T>::syevd("V", "L", &size, &unused, &ld, &unused, &answer, &kQuery, &integers, &kQuery, &info, 1,
                    1);
  return {std::max(least, rounded_up(answer)), std::max<std::int64_t>(integers, 3 + 5 * n)};
}

template <class T>
int eigh(std::int64_t n, T* a, T* values, const Work<T>& work) {
  const int size = narrow(n), ld = leading(n), elements = narrow(work.room.elements),
            integers = narrow(work.room.integers);
  int info = 0;
  const Turn turn;
  Symbols<T>::syevd("V", "L", &size, a, &ld, values, work.elements, &elements, work.integers, &integers,
                    &info, 1, 1);
  return info;
}

template <class T>
Room rows_room(std::int64_t m, std::int64_t n) {
  require_small(m, n, m * n);
  const int rows = narrow(m), cols = narrow(n), ld = leading(m);
  T factor = 0, make = 0, unused = 0;
  int info = 0;
  const Turn turn;
  Symbols<T>::gelqf(&rows, &cols, &unused, &ld, &unused, &factor, &kQuery, &info);
  Symbols<T>::orglq(&rows, &cols, &rows, &unused, &ld, &unused, &make, &kQuery, &info);
  // The reflections' factors, the diagonal of L, and what the two ask for.
  return {2 * m + std::max({m, rounded_up(factor), rounded_up(make)}), 0};
}

template <class T>
int orthonormal_rows(std::int64_t m, std::int64_t n, T* a, const Work<T>& work) {
  const int rows = narrow(m), cols = narrow(n), ld = leading(m),
            elements = narrow(work.room.elements - 2 * m);
  T *const factors = work.elements, *const diagonal = factors + m, *const rest = diagonal + m;
  int info = 0;
  const Turn turn;
  Symbols<T>::gelqf(&rows, &cols, a, &ld, factors, rest, &elements, &info);
  for (std::int64_t i = 0; i < m; ++i) diagonal[i] = a[i + i * m];
  Symbols<T>::orglq(&rows, &cols, &rows, a, &ld, factors, rest, &elements, &info);
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < m; ++i)
      if (diagonal[i] < 0) a[i + j * m] = -a[i + j * m];
  return info;
}

template <class T>
Room svd_room(std::int64_t m, std::int64_t n) {
  const std::int64_t r = std::min(m, n);
  const std::int64_t least = std::max(4 * r * r + 7 * r, 3 * r + std::max(std::max(m, n), 2 * r)) + 1;
  require_small(m, n, least);
  const int rows = narrow(m), cols = narrow(n), ld = leading(m), rank = rank_of(m, n);
  T divide = 0, iterate = 0, unused = 0;
  int no_integers = 0, info = 0;
  const Turn turn;
  Symbols<T>::gesdd("S", &rows, &cols, &unused, &ld, &unused, &unused, &ld, &unused, &rank, &divide, &kQuery,
                    &no_integers, &info, 1);
  Symbols<T>::gesvd("S", "S", &rows, &cols, &unused, &ld, &unused, &unused, &ld, &unused, &rank, &iterate,
                    &kQuery, &info, 1, 1);
  return {std::max({least, rounded_up(divide), rounded_up(iterate)}), 8 * r};
}

template <class T>
int svd(std::int64_t m, std::int64_t n, T* a, T* s, T* u, T* vt, const Work<T>& work) {
  const int rows = narrow(m), cols = narrow(n), ld = leading(m), rank = rank_of(m, n),
            elements = narrow(work.room.elements);
  int info = 0;
  const Turn turn;
  Symbols<T>::gesdd(u ? "S" : "N", &rows, &cols, a, &ld, s, u, &ld, vt, &rank, work.elements, &elements,
                    work.integers, &info, 1);
  return info;
}

template <class T>
int svd_by_iteration(std::int64_t m, std::int64_t n, T* a, T* s, T* u, T* vt, const Work<T>& work) {
  const int rows = narrow(m), cols = narrow(n), ld = leading(m), rank = rank_of(m, n),
            elements = narrow(work.room.elements);
  const char* const job = u ? "S" : "N";
  int info = 0;
  const Turn turn;
  Symbols<T>::gesvd(job, job, &rows, &cols, a, &ld, s, u, &ld, vt, &rank, work.elements, &elements, &info, 1,
                    1);
  return info;
}

#define SPECTRAIN_LAPACK(T)                                                      \
  template Room eigh_room<T>(std::int64_t);                                      \
  template int eigh(std::int64_t, T*, T*, const Work<T>&);                       \
  template Room rows_room<T>(std::int64_t, std::int64_t);                        \
  template int orthonormal_rows(std::int64_t, std::int64_t, T*, const Work<T>&); \
  template Room svd_room<T>(std::int64_t, std::int64_t);                         \
  template int svd(std::int64_t, std::int64_t, T*, T*, T*, T*, const Work<T>&);  \
  template int svd_by_iteration(std::int64_t, std::int64_t, T*, T*, T*, T*, const Work<T>&)
SPECTRAIN_LAPACK(float);
SPECTRAIN_LAPACK(double);
#undef SPECTRAIN_LAPACK

}  // namespace spectrain::lapack
