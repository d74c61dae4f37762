#include "kernels/cpu/isa/reduction.h"

#include <atomic>
#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {
namespace {

// Blocks are fixed and their sums added in order, so the result does not depend on the number of threads.
constexpr std::int64_t kBlock = 16384;

std::size_t float_index(const Tensor& x, const char* kernel) {
  require(x.dtype != DType::i32, kernel, "i32 is not a float dtype");
  return static_cast<std::size_t>(x.dtype);
}

const std::byte* at(const Tensor& t, std::int64_t element) {
  return static_cast<const std::byte*>(t.data) + element * static_cast<std::int64_t>(size_of(t.dtype));
}

double sum_blocks(int threads, const Tensor& x, double (*kernel)(const void*, std::int64_t)) {
  const std::int64_t n = x.numel(), blocks = (n + kBlock - 1) / kBlock;
  if (blocks <= 1) return kernel(x.data, n);
  std::vector<double> sums(static_cast<std::size_t>(blocks));
  parallel_ranges(threads, blocks, 8, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      sums[static_cast<std::size_t>(i)] = kernel(at(x, i * kBlock), std::min(kBlock, n - i * kBlock));
  });
  double total = 0;
  for (const double s : sums) total += s;
  return total;
}

}  // namespace

double CpuBackend::sum_of_squares(const Tensor& x) {
  return sum_blocks(threads_, x,
                    SPECTRAIN_ISA_SELECT(reduction_table).sum_of_squares[float_index(x, "sum_of_squares")]);
}

double CpuBackend::sum(const Tensor& x) {
  return sum_blocks(threads_, x, SPECTRAIN_ISA_SELECT(reduction_table).sum[float_index(x, "sum")]);
}

bool CpuBackend::all_finite(const Tensor& x) {
  const auto kernel = SPECTRAIN_ISA_SELECT(reduction_table).all_finite[float_index(x, "all_finite")];
  std::atomic<bool> finite{true};
  parallel_ranges(threads_, x.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    if (!kernel(at(x, begin), end - begin)) finite = false;
  });
  return finite;
}

}  // namespace spectrain
