#include "kernels/transpose.h"

#include <algorithm>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {

void CpuBackend::transpose(const Tensor& x, const Tensor& y) {
  if (x.rows() != y.cols() || x.cols() != y.rows()) return transpose_range(x, y, 0, 0);  // throws
  // Whole blocks of rows for a thread, and enough of them to be worth waking it.
  const std::int64_t rows = kElementGrain / std::max<std::int64_t>(1, y.cols());
  const std::int64_t grain = std::max<std::int64_t>(32, rows / 32 * 32);
  parallel_ranges(threads_, y.rows(), grain,
                  [&](std::int64_t first, std::int64_t last) { transpose_range(x, y, first, last); });
}

}  // namespace spectrain
