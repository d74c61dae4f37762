#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

// Every parallel region of the CPU kernels is opened here, by parallel_team: one place decides how threads
// are woken, and one place tells the thread sanitizer about it.

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
// The functions that open a region are not instrumented; the bodies they call are.
#define SPECTRAIN_REGION __attribute__((no_sanitize("thread"), noinline))
#else
#define SPECTRAIN_REGION
#endif

namespace spectrain {

// Calls body(thread, count) once on each of `team` threads, the caller being thread 0 of `count`, and returns
// when all are done. The runtime may grant fewer threads than asked for: bodies split their work by `count`.
// The body must not throw.
#ifndef __SANITIZE_THREAD__
template <class Body>
void parallel_team(int team, const Body& body) {
#pragma omp parallel num_threads(team)
  body(omp_get_thread_num(), omp_get_num_threads());
}
#else
// OpenMP's runtime is not instrumented, so the sanitizer does not see that what the caller wrote before the
// region is visible inside it, and what the threads wrote is visible after it. These two edges are stated
// here, and no others: two threads of one team that touch the same bytes are still a race, whatever the
// runtime does between them.
template <class Body>
SPECTRAIN_REGION void parallel_team(int team, const Body& body) {
  char begin = 0, end = 0;
  __tsan_release(&begin);
#pragma omp parallel num_threads(team) shared(begin, end)
  {
    __tsan_acquire(&begin);
    body(omp_get_thread_num(), omp_get_num_threads());
    __tsan_release(&end);
  }
  __tsan_acquire(&end);
}
#endif

// Calls body(begin, end) on contiguous pieces of [0, n), one per thread, cut at multiples of `grain` so that
// no two threads write into one cache line. Work below two grains stays on the calling thread: waking the
// others would cost more than they save. The body must not throw.
template <class Body>
void parallel_ranges(int threads, std::int64_t n, std::int64_t grain, const Body& body) {
  const std::int64_t grains = (n + grain - 1) / grain;
  const int team = static_cast<int>(std::min<std::int64_t>(threads, grains));
  if (team <= 1) {
    if (n > 0) body(std::int64_t{0}, n);
    return;
  }
  parallel_team(team, [&](std::int64_t me, std::int64_t count) {
    const std::int64_t begin = grains * me / count * grain;
    const std::int64_t end = std::min(n, grains * (me + 1) / count * grain);
    if (begin < end) body(begin, end);
  });
}

// Calls body(part, begin, end) on pieces of [0, size(part)) that together cover every part: the parts as one
// long range, cut among the threads as parallel_ranges does.
template <class Parts, class Size, class Body>
void parallel_parts(int threads, const Parts& parts, std::int64_t grain, const Size& size, const Body& body) {
  std::int64_t all = 0;
  for (const auto& part : parts) all += size(part);
  parallel_ranges(threads, all, grain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t first = 0;  // of the part, in the long range
    for (const auto& part : parts) {
      const std::int64_t from = std::max(begin - first, std::int64_t{0}), n = size(part);
      const std::int64_t to = std::min(end - first, n);
      if (from < to) body(part, from, to);
      first += n;
    }
  });
}

// Calls body(task, thread) for every task in [0, tasks), thread in [0, threads): handed out in order, one at
// a time, to whichever thread is free. For unequal tasks (put the longest first) of at least some
// microseconds each. The body must not throw.
template <class Body>
void parallel_tasks(int threads, std::int64_t tasks, const Body& body) {
  const int team = static_cast<int>(std::min<std::int64_t>(threads, tasks));
  if (team <= 1) {
    for (std::int64_t i = 0; i < tasks; ++i) body(i, 0);
    return;
  }
  parallel_team(team, [&](int me, int) {
#pragma omp for schedule(dynamic, 1) nowait
    for (std::int64_t i = 0; i < tasks; ++i) body(i, me);
  });
}

// A grain for element-wise work: 32 Ki elements take a few microseconds, about what waking a thread costs.
inline constexpr std::int64_t kElementGrain = 32768;

}  // namespace spectrain
