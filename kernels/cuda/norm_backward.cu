#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm_rows.h"

// The norms' backward pass. With u = (x - mean) rstd, g = dy gain:
//   dx = rstd (g - mean(g) - u mean(g u)), without mean(g) for rms;  dgain = sum of dy u,  dbias = sum of dy
// Floor: one reading of x and dy (and of dx when it is added to) and one writing of dx. x and dy of a row
// stay in registers between the sums and dx, and so do a thread's columns of dgain and dbias over all its
// rows. The rows are cut into partitions, as many as R and C say, whoever works at them; a partition's sums
// are written to scratch memory, a hundredth of what the rows are, and added in order by a second kernel. So
// the number of blocks changes no bit.

namespace spectrain {
namespace {

struct BackwardArgs {
  const void *dy, *x;
  const float *gain, *mean, *rstd;  // mean: null for rms
  void* dx;
  bool accumulate;
  std::int64_t rows, cols;
  float* sums;  // [partitions, 2, cols]: of dy u, of dy; null when nobody wants them
  std::int64_t partitions;
  std::uint32_t zero = 0;  // forget_floats()
};

constexpr int kWarps = 8;  // rows a block works at, where a warp is enough for one
constexpr int kLargestBlock = 512;
// Partitions: so many that an H100 with its 132 multiprocessors has sixteen warps on each, what the registers
// allow; of many rows up to four times as many, so that it matters less how many fit at once.
constexpr std::int64_t kMultiprocessors = 132, kWarpsOfEach = 16, kWaves = 4;
constexpr std::int64_t kRowsOfWarp = 16;  // worth the adding of the warps' sums
constexpr int kBlocks = 1 << 14;          // of each multiprocessor: given out as others end

// One row by a team; adds to the sums of its columns.
template <class T, int P, int N, bool kBlock, bool kSums>
__device__ inline void backward_row(const BackwardArgs& p, std::int64_t r, Team<T, P, N, kBlock>& team,
                                    float (&gain_sums)[kSums ? N : 1][P],
                                    float (&bias_sums)[kSums ? N : 1][P]) {
  const float per_column = 1.0f / static_cast<float>(p.cols);
  Packed<T, P> x[N], dy[N];
  team.load(static_cast<const T*>(p.x) + r * p.cols, x);
  team.load(static_cast<const T*>(p.dy) + r * p.cols, dy);
  const float mean = p.mean ? p.mean[r] : 0.0f, rstd = p.rstd[r];
  const auto gains = [&](std::int64_t c, float(&gain)[P]) {
    if (p.gain)
      load_floats(p.gain + c, gain);
    else
#pragma unroll
      for (int k = 0; k < P; ++k) gain[k] = 1.0f;
  };
  float sum_g = 0, sum_gu = 0;
  team.for_each([&](int i, std::int64_t c) {
    float gain[P];
    gains(c, gain);
#pragma unroll
    for (int k = 0; k < P; ++k) {
      const float d = dy[i].at(k), u = (x[i].at(k) - mean) * rstd, g = d * gain[k];
      sum_g += g;
      sum_gu += g * u;
      if constexpr (kSums) {
        gain_sums[i][k] += d * u;
        bias_sums[i][k] += d;
      }
    }
  });
  team.sums(sum_g, sum_gu);
  team.forget(x, p.zero);
  team.forget(dy, p.zero);
  const float k1 = p.mean ? sum_g * per_column : 0.0f, k2 = sum_gu * per_column;
  T* dx = static_cast<T*>(p.dx) + r * p.cols;
  team.for_each([&](int i, std::int64_t c) {
    float gain[P];
    gains(c, gain);
    Packed<T, P> result;
    if (p.accumulate) result = Packed<T, P>::load(dx + c);
    float value[P];
#pragma unroll
    for (int k = 0; k < P; ++k) {
      const float g = dy[i].at(k) * gain[k], u = (x[i].at(k) - mean) * rstd;
      value[k] = rstd * (g - k1 - u * k2);
      if (p.accumulate) value[k] += result.at(k);
    }
    result.set(value);
    result.store(dx + c);
  });
}

template <class T, int P, int N, bool kBlock>
__global__ void __launch_bounds__(kBlock ? kLargestBlock : kWarps* kWarp, kBlock ? 1 : 2)
    norm_backward_kernel(BackwardArgs p) {
  __shared__ float store[2][2][kWarp];
  Team<T, P, N, kBlock> team(p.cols, store);
  const int teams = team.teams_in_block();
  float none[1][P];
  for (std::int64_t r = std::int64_t{blockIdx.x} * teams + team.number(); r < p.rows;
       r += std::int64_t{gridDim.x} * teams)
    backward_row<T, P, N, kBlock, false>(p, r, team, none, none);
}

// The same with the sums for dgain and dbias. Dynamic shared memory: [2, cols] floats where teams are warps.
template <class T, int P, int N, bool kBlock>
__global__ void __launch_bounds__(kBlock ? kLargestBlock : kWarps* kWarp, kBlock ? 1 : 2)
    norm_backward_with_sums_kernel(BackwardArgs p) {
  __shared__ float store[2][2][kWarp];
  Team<T, P, N, kBlock> team(p.cols, store);
  const int teams = team.teams_in_block();
  for (std::int64_t part = blockIdx.x; part < p.partitions; part += gridDim.x) {
    float gain_sums[N][P] = {}, bias_sums[N][P] = {};
    const std::int64_t begin = p.rows * part / p.partitions, end = p.rows * (part + 1) / p.partitions;
    for (std::int64_t r = begin + team.number(); r < end; r += teams)
      backward_row<T, P, N, kBlock, true>(p, r, team, gain_sums, bias_sums);
    float* sums = p.sums + part * 2 * p.cols;
    if constexpr (kBlock) {
      team.for_each([&](int i, std::int64_t c) {
#pragma unroll
        for (int k = 0; k < P; ++k) {
          sums[c + k] = gain_sums[i][k];
          sums[p.cols + c + k] = bias_sums[i][k];
        }
      });
    } else {
      // The warps' sums are added in their order, so that scratch memory gets one set for all of them.
      auto* all = static_cast<float*>(dynamic_shared());
      for (int turn = 0; turn < teams; ++turn) {
        if (turn == team.number())
          team.for_each([&](int i, std::int64_t c) {
#pragma unroll
            for (int k = 0; k < P; ++k) {
              all[c + k] = turn == 0 ? gain_sums[i][k] : all[c + k] + gain_sums[i][k];
              all[p.cols + c + k] = turn == 0 ? bias_sums[i][k] : all[p.cols + c + k] + bias_sums[i][k];
            }
          });
        __syncthreads();
      }
      for (std::int64_t c = threadIdx.x; c < 2 * p.cols; c += blockDim.x) sums[c] = all[c];
      __syncthreads();
    }
  }
}

// Rows that no block's registers hold: x and dy are read twice, and the sums are kept in scratch memory.
template <class T>
__global__ void __launch_bounds__(kLargestBlock) norm_backward_of_long_rows_kernel(BackwardArgs p) {
  __shared__ float store[2][2][kWarp];
  Team<T, 1, 1, true> team(p.cols, store);
  const float per_column = 1.0f / static_cast<float>(p.cols);
  for (std::int64_t part = blockIdx.x; part < p.partitions; part += gridDim.x) {
    const std::int64_t begin = p.rows * part / p.partitions, end = p.rows * (part + 1) / p.partitions;
    float* gain_sums = p.sums ? p.sums + part * 2 * p.cols : nullptr;
    float* bias_sums = p.sums ? gain_sums + p.cols : nullptr;
    for (std::int64_t r = begin; r < end; ++r) {
      const T *dy = static_cast<const T*>(p.dy) + r * p.cols, *x = static_cast<const T*>(p.x) + r * p.cols;
      T* dx = static_cast<T*>(p.dx) + r * p.cols;
      const float mean = p.mean ? p.mean[r] : 0.0f, rstd = p.rstd[r];
      float sum_g = 0, sum_gu = 0;
      for (std::int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) {
        const float d = widen(dy[c]), u = (widen(x[c]) - mean) * rstd, g = p.gain ? d * p.gain[c] : d;
        sum_g += g;
        sum_gu += g * u;
        if (p.sums) {
          gain_sums[c] = d * u + (r == begin ? 0.0f : gain_sums[c]);
          bias_sums[c] = d + (r == begin ? 0.0f : bias_sums[c]);
        }
      }
      team.sums(sum_g, sum_gu);
      const float k1 = p.mean ? sum_g * per_column : 0.0f, k2 = sum_gu * per_column;
      for (std::int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) {
        const float d = widen(dy[c]), u = (widen(x[c]) - mean) * rstd, g = p.gain ? d * p.gain[c] : d;
        const float value = rstd * (g - k1 - u * k2);
        dx[c] = narrow<T>(p.accumulate ? widen(dx[c]) + value : value);
      }
    }
  }
}

// dgain, dbias (+)= the partitions' sums, added in a fixed order: a column by a column of threads, eight sums
// that are added at the end. Either may be null.
constexpr int kSumColumns = 32, kSumRows = 8;
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    add_partitions_kernel(const float* sums, std::int64_t partitions, std::int64_t cols, float* dgain,
                          float* dbias, bool accumulate) {
  __shared__ float store[kSumRows][kSumColumns];
  for (std::int64_t first = std::int64_t{blockIdx.x} * kSumColumns; first < 2 * cols;
       first += std::int64_t{gridDim.x} * kSumColumns) {
    const std::int64_t c = first + threadIdx.x;
    float sum = 0;
    if (c < 2 * cols)
#pragma unroll 8
      for (std::int64_t part = threadIdx.y; part < partitions; part += kSumRows)
        sum += sums[part * 2 * cols + c];
    store[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    float* out = c < cols ? dgain : dbias;
    if (threadIdx.y == 0 && c < 2 * cols && out) {
      for (int i = 1; i < kSumRows; ++i) sum += store[i][threadIdx.x];
      out += c < cols ? c : c - cols;
      *out = accumulate ? *out + sum : sum;
    }
    __syncthreads();
  }
}

// How a row is worked at: by a warp (threads 0) or a block of so many threads.
struct Plan {
  void (*kernel)(BackwardArgs);
  void (*with_sums)(BackwardArgs);
  std::int64_t threads;
};

template <class T, int P, int N>
Plan by_warp() {
  return {norm_backward_kernel<T, P, N, false>, norm_backward_with_sums_kernel<T, P, N, false>, 0};
}
template <class T, int P, int N>
Plan by_block(std::int64_t threads) {
  return {norm_backward_kernel<T, P, N, true>, norm_backward_with_sums_kernel<T, P, N, true>, threads};
}

template <class T>
Plan plan_for(const BackwardArgs& p, bool packs) {
  constexpr int P = kPack<T>, kPacks = 2, kElements = 4;  // to a thread, in a block
  if (packs) {
    switch ((p.cols / P + kWarp - 1) / kWarp) {
      case 1:
        return by_warp<T, P, 1>();
      case 2:
        return by_warp<T, P, 2>();
      case 3:
        return by_warp<T, P, 3>();
      case 4:
        return by_warp<T, P, 4>();
      default:
        const std::int64_t threads = threads_for(p.cols / P, kPacks);
        if (threads <= kLargestBlock) return by_block<T, P, kPacks>(threads);
    }
  }
  const std::int64_t threads = threads_for(p.cols, kElements);
  if (threads <= kLargestBlock) return by_block<T, 1, kElements>(threads);
  return {norm_backward_of_long_rows_kernel<T>, norm_backward_of_long_rows_kernel<T>, kLargestBlock};
}

template <class T>
void run(CudaBackend& backend, BackwardArgs p, float* dgain, float* dbias, bool accumulate_parameters) {
  if (p.cols == 0) return;
  const Plan plan = plan_for<T>(p, all_packable<T>(p.cols, {p.dy, p.x, p.dx}, {p.gain}));
  const std::int64_t teams = plan.threads == 0 ? kWarps : 1;
  const auto threads = static_cast<unsigned>(plan.threads == 0 ? kWarps * kWarp : plan.threads);
  const std::int64_t wave = kMultiprocessors * std::max<std::int64_t>(1, kWarpsOfEach / (threads / kWarp));
  p.partitions =
      std::min(std::clamp(p.rows / (kRowsOfWarp * teams), wave, kWaves * wave), (p.rows + teams - 1) / teams);
  const bool parameters = dgain || dbias;
  if (!parameters) {
    if (p.rows == 0) return;
    return launch(backend.stream(), {backend.blocks_for((p.rows + teams - 1) / teams, kBlocks), threads},
                  plan.kernel, p);
  }
  const std::size_t row = 2 * static_cast<std::size_t>(p.cols) * sizeof(float);
  p.sums = static_cast<float*>(backend.scratch(static_cast<std::size_t>(p.partitions) * row));
  if (p.rows > 0)
    launch(backend.stream(), {backend.blocks_for(p.partitions, kBlocks), threads, teams > 1 ? row : 0},
           plan.with_sums, p);
  launch(backend.stream(),
         {backend.blocks_for((2 * p.cols + kSumColumns - 1) / kSumColumns), dim3(kSumColumns, kSumRows)},
         add_partitions_kernel, p.sums, p.partitions, p.cols, dgain, dbias, accumulate_parameters);
}

}  // namespace

void CudaBackend::norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain,
                                const Tensor& mean, const Tensor& rstd, const Tensor& dx, bool accumulate,
                                const Tensor& dgain, const Tensor& dbias, bool accumulate_parameters) {
  const char* kernel = "norm_backward";
  const std::int64_t R = x.rows(), C = x.cols();
  const bool layer = kind == NormKind::layer;
  require_compute(x, kernel, "x");
  require_same(x, dy, kernel, "x and dy");
  require_same(x, dx, kernel, "x and dx");
  require_vector(gain, DType::f32, C, true, kernel, "gain");
  require_vector(rstd, DType::f32, R, false, kernel, "rstd");
  if (layer) require_vector(mean, DType::f32, R, false, kernel, "mean");
  require_vector(dgain, DType::f32, C, true, kernel, "dgain");
  require_vector(dbias, DType::f32, C, true, kernel, "dbias");
  const auto vector = [](const Tensor& t) { return static_cast<float*>(t.data); };
  const BackwardArgs p{
      dy.data, x.data, vector(gain), layer ? vector(mean) : nullptr, vector(rstd), dx.data, accumulate, R, C,
      nullptr, 0};
  with_compute(x, kernel, [&](auto* in) {
    run<Element<decltype(in)>>(*this, p, vector(dgain), vector(dbias), accumulate_parameters);
  });
}

}  // namespace spectrain
