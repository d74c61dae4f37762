#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/formula.h"
#include "kernels/cuda/launch.h"

// Sums of a formula's values, in double. What is added where depends on R and C alone: blocks have the same
// threads whatever the formula, and the pieces that blocks add up are cut by R and C; more blocks or fewer
// only change who does which. Sums of pieces go to scratch memory and are added in order by another kernel.
// Floor: one reading of the tensors.

namespace spectrain {
namespace {

// So few that a formula of the most registers there can be fits into any GPU's shared memory.
constexpr int kThreads = 64;
constexpr std::int64_t kSegment = 4096;  // elements of one sum that a block adds
constexpr std::int64_t kShort = 1024;    // sums of no more elements: by a warp or some lanes of it

__device__ inline double sum_of_four(const Four& x, int valid) {
  double sum = 0;
  for (int k = 0; k < 4; ++k)
    if (k < valid) sum += static_cast<double>(x.v[k]);
  return sum;
}
__device__ inline int valid_from(std::int64_t i, std::int64_t end) {
  return i >= end ? 0 : end - i < 4 ? static_cast<int>(end - i) : 4;
}

// sums[o] = the sum of elements [o length, (o + 1) length), by `lanes` neighbouring lanes of a warp.
__global__ void __launch_bounds__(kThreads)
    short_sums_kernel(const __grid_constant__ DeviceFormula f, std::int64_t outputs, std::int64_t length,
                      int lanes, float* sums) {
  const int lane = static_cast<int>(threadIdx.x) % lanes, group = static_cast<int>(threadIdx.x) / lanes;
  const int groups = kThreads / lanes;
  // All threads of a block go round equally often: lanes without work still take part in the exchange.
  for (std::int64_t base = static_cast<std::int64_t>(blockIdx.x) * groups; base < outputs;
       base += static_cast<std::int64_t>(gridDim.x) * groups) {
    const std::int64_t output = base + group, begin = output * length;
    const std::int64_t end = output < outputs ? begin + length : begin;
    double sum = 0;
    for (std::int64_t i = begin + 4 * lane; i < end; i += 4 * lanes) {
      const int valid = valid_from(i, end);
      sum += sum_of_four(run_formula(f, places_of(f, i, valid)), valid);
    }
    for (int k = lanes / 2; k > 0; k /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, k);
    if (lane == 0 && output < outputs) sums[output] = static_cast<float>(sum);
  }
}

// parts[o segments + s] = the sum of elements [o length + s kSegment, ...) of one segment, by a block.
__global__ void __launch_bounds__(kThreads)
    segment_sums_kernel(const __grid_constant__ DeviceFormula f, std::int64_t outputs, std::int64_t length,
                        std::int64_t segments, double* parts) {
  __shared__ double store[kWarp];
  for (std::int64_t piece = blockIdx.x; piece < outputs * segments; piece += gridDim.x) {
    const std::int64_t output = piece / segments, from = (piece - output * segments) * kSegment;
    const std::int64_t begin = output * length + from;
    const std::int64_t end = begin + (length - from < kSegment ? length - from : kSegment);
    double sum = 0;
    for (std::int64_t i = begin + 4 * static_cast<int>(threadIdx.x); i < end; i += 4 * kThreads) {
      const int valid = valid_from(i, end);
      sum += sum_of_four(run_formula(f, places_of(f, i, valid)), valid);
    }
    sum = block_sum(sum, store);
    if (threadIdx.x == 0) parts[piece] = sum;
    __syncthreads();
  }
}

// out[o] = the sum of parts[o segments ...).
__global__ void __launch_bounds__(kThreads)
    add_segments_kernel(const double* parts, std::int64_t outputs, std::int64_t segments, float* out) {
  __shared__ double store[kWarp];
  for (std::int64_t output = blockIdx.x; output < outputs; output += gridDim.x) {
    double sum = 0;
    for (std::int64_t s = threadIdx.x; s < segments; s += kThreads) sum += parts[output * segments + s];
    sum = block_sum(sum, store);
    if (threadIdx.x == 0) out[output] = static_cast<float>(sum);
    __syncthreads();
  }
}

// How [R,C] is cut for sums over columns: blocks take `height` rows of 4 `lanes` columns each.
struct ColumnCut {
  int lanes = 1;
  std::int64_t across = 0, height = 0, down = 0;
};
ColumnCut cut_columns(std::int64_t rows, std::int64_t cols) {
  ColumnCut cut;
  while (cut.lanes < kWarp && 4 * cut.lanes < cols) cut.lanes *= 2;
  cut.across = (cols + 4 * cut.lanes - 1) / (4 * cut.lanes);
  // Enough blocks for any GPU, but some rows for each thread.
  const std::int64_t least = 8 * (kThreads / cut.lanes);
  const std::int64_t wanted = std::max<std::int64_t>(1, 2048 / cut.across);
  cut.height = std::max(least, (rows + wanted - 1) / wanted);
  cut.down = (rows + cut.height - 1) / cut.height;
  return cut;
}

// parts[d C + c] = the sum of column c over the rows of piece d.
__global__ void __launch_bounds__(kThreads)
    column_sums_kernel(const __grid_constant__ DeviceFormula f, std::int64_t rows, ColumnCut cut,
                       double* parts) {
  __shared__ double store[kThreads][4];
  const int me = static_cast<int>(threadIdx.x), lane = me % cut.lanes, line = me / cut.lanes;
  const int lines = kThreads / cut.lanes;
  for (std::int64_t piece = blockIdx.x; piece < cut.across * cut.down; piece += gridDim.x) {
    const std::int64_t d = piece / cut.across, col = 4 * ((piece - d * cut.across) * cut.lanes + lane);
    const std::int64_t first = d * cut.height, last = rows - first < cut.height ? rows : first + cut.height;
    const int valid = valid_from(col, f.cols);
    double sums[4] = {};
    if (valid > 0)
      for (std::int64_t r = first + line; r < last; r += lines) {
        const Four x = run_formula(f, {r * f.cols + col, r, col, valid});
        for (int k = 0; k < 4; ++k) sums[k] += static_cast<double>(x.v[k]);
      }
    for (int k = 0; k < 4; ++k) store[me][k] = sums[k];
    __syncthreads();
    if (line == 0)
      for (int k = 0; k < valid; ++k) {
        double sum = 0;
        for (int l = 0; l < lines; ++l) sum += store[l * cut.lanes + lane][k];
        parts[d * f.cols + col + k] = sum;
      }
    __syncthreads();
  }
}

// out[c] = the sum of parts[d C + c] over d: 32 columns and 8 pieces at a time.
constexpr int kAtOnce = 8;
__global__ void __launch_bounds__(kWarp* kAtOnce)
    add_pieces_kernel(const double* parts, std::int64_t cols, std::int64_t down, float* out) {
  __shared__ double store[kAtOnce][kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, line = static_cast<int>(threadIdx.x) / kWarp;
  for (std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kWarp; first < cols;
       first += static_cast<std::int64_t>(gridDim.x) * kWarp) {
    const std::int64_t c = first + lane;
    double sum = 0;
    if (c < cols)
      for (std::int64_t d = line; d < down; d += kAtOnce) sum += parts[d * cols + c];
    store[line][lane] = sum;
    __syncthreads();
    if (line == 0 && c < cols) {
      double total = 0;
      for (int l = 0; l < kAtOnce; ++l) total += store[l][lane];
      out[c] = static_cast<float>(total);
    }
    __syncthreads();
  }
}

constexpr int kPerMultiprocessor = 2048 / kThreads;

}  // namespace

void CudaBackend::reduce(const Formula& formula, std::span<const double> numbers,
                         std::span<const Tensor> tensors, Extent result, const Tensor& out) {
  const FormulaExtent e = check_reduce(formula, numbers, tensors, result, out, true);
  if (out.numel() == 0) return;
  if (e.rows * e.cols == 0) return fill(out, 0);
  const auto program = formula.program(Formula::Use::reduce_on_device);
  const DeviceFormula f = device_formula(*program, numbers, tensors, e, result != Extent::one);
  const std::size_t shared = formula_shared(program->registers(), kThreads);
  require(shared <= shared_memory_limit(), "reduce", "a formula of too many values at a time for this GPU");
  float* sums = out.as<float>();
  if (result == Extent::columns) {
    const ColumnCut cut = cut_columns(e.rows, e.cols);
    auto* parts = static_cast<double*>(scratch(static_cast<std::size_t>(cut.down * e.cols) * sizeof(double)));
    launch(stream(), {blocks_for(cut.across * cut.down, kPerMultiprocessor), kThreads, shared},
           column_sums_kernel, f, e.rows, cut, parts);
    launch(stream(), {blocks_for((e.cols + kWarp - 1) / kWarp), kWarp * kAtOnce}, add_pieces_kernel, parts,
           e.cols, cut.down, sums);
    return;
  }
  // The sum of all is that of one long row.
  const std::int64_t outputs = result == Extent::rows ? e.rows : 1, length = e.rows * e.cols / outputs;
  if (length <= kShort) {
    int lanes = 1;
    while (lanes < kWarp && 4 * lanes < length) lanes *= 2;
    const std::int64_t groups = kThreads / lanes;
    launch(stream(), {blocks_for((outputs + groups - 1) / groups, kPerMultiprocessor), kThreads, shared},
           short_sums_kernel, f, outputs, length, lanes, sums);
    return;
  }
  const std::int64_t segments = (length + kSegment - 1) / kSegment;
  auto* parts = static_cast<double*>(scratch(static_cast<std::size_t>(outputs * segments) * sizeof(double)));
  launch(stream(), {blocks_for(outputs * segments, kPerMultiprocessor), kThreads, shared},
         segment_sums_kernel, f, outputs, length, segments, parts);
  launch(stream(), {blocks_for(outputs, kPerMultiprocessor), kThreads}, add_segments_kernel, parts, outputs,
         segments, sums);
}

}  // namespace spectrain
