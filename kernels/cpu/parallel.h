#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace spectrain {

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
#pragma omp parallel num_threads(team)
  {
    // The runtime may grant fewer threads than asked for, so the split follows the team that came.
    const std::int64_t count = omp_get_num_threads(), me = omp_get_thread_num();
    const std::int64_t begin = grains * me / count * grain;
    const std::int64_t end = std::min(n, grains * (me + 1) / count * grain);
    if (begin < end) body(begin, end);
  }
}

// A grain for element-wise work: 32 Ki elements take a few microseconds, about what waking a thread costs.
inline constexpr std::int64_t kElementGrain = 32768;

}  // namespace spectrain
