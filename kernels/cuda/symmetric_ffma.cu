#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/triangle.h"

namespace spectrain {
namespace {

constexpr int kThreads = 256, kTile = kTriangleTile, kDepth = 16;
constexpr int kRow = kTile + 4;                    // floats of a row in shared memory
constexpr int kLoads = kTile * kDepth / kThreads;  // of each operand by each thread, per step

// Operands of one step along k, transposed: all rows' elements of one k lie side by side.
struct alignas(16) Step {
  float a[kDepth][kRow], b[kDepth][kRow];
};

template <class T>
struct Prefetch {
  float a[kLoads], b[kLoads];

  __device__ static int row(int i) { return (static_cast<int>(threadIdx.x) + i * kThreads) / kDepth; }
  __device__ static int depth() { return static_cast<int>(threadIdx.x) % kDepth; }
  __device__ static float element(const T* x, std::int64_t row, std::int64_t col, std::int64_t m,
                                  std::int64_t k) {
    return row < m && col < k ? widen(x[row * k + col]) : 0.0f;
  }
  __device__ void read(const T* left, const T* right, const SymmetricProduct& p, const TriangleTile& t,
                       std::int64_t k) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      a[i] = element(left, t.row + row(i), k + depth(), p.m, p.k);
      b[i] = element(right, t.col + row(i), k + depth(), p.m, p.k);
    }
  }
  __device__ void write(Step& step) const {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
      step.a[depth()][row(i)] = a[i];
      step.b[depth()][row(i)] = b[i];
    }
  }
};

__device__ inline void multiply(const Step& step, float (&acc)[8][8], int rows, int cols) {
#pragma unroll
  for (int k = 0; k < kDepth; ++k) {
    float left[8], right[8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Pack<float, 4> l = load_pack(&step.a[k][rows + 64 * half]),
                           r = load_pack(&step.b[k][cols + 64 * half]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        left[4 * half + i] = l.v[i];
        right[4 * half + i] = r.v[i];
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) acc[i][j] += left[i] * right[j];
  }
}

// For f32 (full precision: the tensor cores would drop mantissa), and for shapes and addresses that the
// tensor cores' loads cannot take. Floor: m (m + 128) k operations at the rate of FFMA. Each thread holds 8 x
// 8 results in registers, 64 FFMA to four 16-byte reads of shared memory; the next step's elements are read
// while this one is multiplied. The bits do not depend on the batch or the number of blocks.
template <class T, class Out>
__global__ void __launch_bounds__(kThreads, 2) ffma_kernel(SymmetricProduct p, std::int64_t tiles) {
  __shared__ Step steps[2];
  const int rows = static_cast<int>(threadIdx.x) / 16 * 4, cols = static_cast<int>(threadIdx.x) % 16 * 4;
  for (std::int64_t work = blockIdx.x; work < p.batch * tiles; work += gridDim.x) {
    const TriangleTile t = triangle_tile(work, tiles);
    const T* const a = static_cast<const T*>(p.a) + t.matrix * p.m * p.k;
    const T* const b = static_cast<const T*>(p.b) + t.matrix * p.m * p.k;
    float acc[8][8] = {};
    Prefetch<T> next;
    next.read(a, b, p, t, 0);
    int which = 0;
    for (std::int64_t k = 0; k < p.k; k += kDepth, which ^= 1) {
      next.write(steps[which]);
      // One barrier is enough: nobody writes this half again before all have passed the next step's barrier.
      __syncthreads();
      if (k + kDepth < p.k) next.read(a, b, p, t, k + kDepth);
      multiply(steps[which], acc, rows, cols);
    }
    const Out* const d = static_cast<const Out*>(p.d) + (p.d != nullptr ? t.matrix * p.m * p.m : 0);
    Out* const c = static_cast<Out*>(p.c) + t.matrix * p.m * p.m;
#pragma unroll
    for (int i = 0; i < 8; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const std::int64_t row = t.row + rows + i / 4 * 64 + i % 4, col = t.col + cols + j / 4 * 64 + j % 4;
        if (row >= p.m || col > row) continue;  // above the diagonal: the mirror of what is below
        float value = p.alpha * acc[i][j];
        if (p.d != nullptr) value += p.beta * widen(d[row * p.m + col]);
        c[row * p.m + col] = c[col * p.m + row] = narrow<Out>(value);
      }
    __syncthreads();
  }
}

template <class T, class Out>
void start(CudaBackend& backend, const SymmetricProduct& p) {
  const std::int64_t tiles = triangle_tiles(p.m);
  launch(backend.stream(), {backend.blocks_for(p.batch * tiles, 2), kThreads}, ffma_kernel<T, Out>, p, tiles);
}

template <class T>
void start(CudaBackend& backend, const SymmetricProduct& p) {
  if (p.result == DType::f32)
    start<T, float>(backend, p);
  else
    start<T, T>(backend, p);
}

}  // namespace

void symmetric_by_ffma(CudaBackend& backend, const SymmetricProduct& p) {
  if (p.factors == DType::f32)
    start<float, float>(backend, p);
  else if (p.factors == DType::bf16)
    start<bf16>(backend, p);
  else
    start<f16>(backend, p);
}

}  // namespace spectrain
