#include <cfloat>

#include "kernels/cuda/device.h"
#include "kernels/cuda/factor_kernels.h"
#include "kernels/cuda/launch.h"

namespace spectrain {
namespace {

constexpr int kThreads = 256, kTile = 32, kTileRows = 8;

__global__ void __launch_bounds__(kThreads)
    finite_kernel(std::int64_t count, std::int64_t elements, float* a, std::int32_t* bad) {
  __shared__ float store[kWarp];
  for (std::int64_t matrix = blockIdx.x; matrix < count; matrix += gridDim.x) {
    float* const x = a + matrix * elements;
    float mine = 0;
    for (std::int64_t i = threadIdx.x; i < elements; i += kThreads)
      if (!(fabsf(x[i]) <= FLT_MAX)) mine = 1;  // NaN compares false
    const bool found = block_max(mine, store) > 0;
    if (found)
      for (std::int64_t i = threadIdx.x; i < elements; i += kThreads) x[i] = 0;
    if (threadIdx.x == 0) bad[matrix] = found;
    __syncthreads();  // before `store` is used again
  }
}

// A tile of the lower triangle of tiles and its mirror image change places, both through shared memory.
__global__ void transpose_squares_kernel(std::int64_t count, std::int64_t n, float* all) {
  __shared__ float low[kTile][kTile + 1], high[kTile][kTile + 1];
  const std::int64_t side = (n + kTile - 1) / kTile, tiles = side * side;
  const int x = static_cast<int>(threadIdx.x);
  for (std::int64_t t = blockIdx.x; t < count * tiles; t += gridDim.x) {
    const std::int64_t i0 = t % tiles / side * kTile, j0 = t % tiles % side * kTile;
    if (j0 > i0) continue;  // the same for all threads of the block
    float* const a = all + t / tiles * n * n;
    for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
      if (i0 + y < n && j0 + x < n) low[y][x] = a[(i0 + y) * n + j0 + x];
      if (j0 + y < n && i0 + x < n) high[y][x] = a[(j0 + y) * n + i0 + x];
    }
    __syncthreads();
    for (int y = static_cast<int>(threadIdx.y); y < kTile; y += kTileRows) {
      if (i0 + y < n && j0 + x < n) a[(i0 + y) * n + j0 + x] = high[x][y];
      if (i0 != j0 && j0 + y < n && i0 + x < n) a[(j0 + y) * n + i0 + x] = low[x][y];
    }
    __syncthreads();
  }
}

// A block takes 32 columns; each of its rows of threads an eighth of the matrix' rows, and the first row of
// threads the best of the eight, in their order.
__global__ void column_signs_kernel(std::int64_t count, std::int64_t rows, std::int64_t cols,
                                    const float* all, float* signs) {
  __shared__ float largest[kTileRows][kTile];
  const std::int64_t groups = (cols + kTile - 1) / kTile, share = (rows + kTileRows - 1) / kTileRows;
  const int x = static_cast<int>(threadIdx.x), y = static_cast<int>(threadIdx.y);
  for (std::int64_t g = blockIdx.x; g < count * groups; g += gridDim.x) {
    const std::int64_t matrix = g / groups, col = g % groups * kTile + x;
    const float* const a = all + matrix * rows * cols;
    float most = 0;
    if (col < cols)
      for (std::int64_t i = y * share; i < rows && i < (y + 1) * share; ++i)
        if (const float v = a[i * cols + col]; fabsf(v) > fabsf(most)) most = v;
    largest[y][x] = most;
    __syncthreads();
    if (y == 0 && col < cols) {
      for (int k = 1; k < kTileRows; ++k)
        if (fabsf(largest[k][x]) > fabsf(most)) most = largest[k][x];
      signs[matrix * cols + col] = most < 0 ? -1.0f : 1.0f;
    }
    __syncthreads();
  }
}

__global__ void signs_kernel(std::int64_t n, std::int64_t step, const float* x, float* signs) {
  SPECTRAIN_GRID_LOOP(i, n) signs[i] = x[i * step] < 0 ? -1.0f : 1.0f;
}

// The sign of element i of a matrix of rows [.., cols]: of its row, or its column, in the batch.
template <bool columns>
__global__ void turn_kernel(std::int64_t n, std::int64_t rows, std::int64_t cols, const float* signs,
                            float* x) {
  SPECTRAIN_GRID_LOOP(i, n) {
    const std::int64_t row = i / cols;  // of the whole batch
    x[i] *= signs[columns ? row / rows * cols + i % cols : row];
  }
}

template <bool columns>
void turn(CudaBackend& b, std::int64_t count, std::int64_t rows, std::int64_t cols, const float* signs,
          float* x) {
  const std::int64_t n = count * rows * cols;
  launch(b.stream(), {b.blocks_for((n + kThreads - 1) / kThreads), kThreads}, turn_kernel<columns>, n, rows,
         cols, signs, x);
}

}  // namespace

void zero_unless_finite(CudaBackend& b, std::int64_t count, std::int64_t elements, float* a,
                        std::int32_t* bad) {
  launch(b.stream(), {b.blocks_for(count), kThreads}, finite_kernel, count, elements, a, bad);
}

void transpose_squares(CudaBackend& b, std::int64_t count, std::int64_t n, float* x) {
  const std::int64_t side = (n + kTile - 1) / kTile;
  launch(b.stream(), {b.blocks_for(count * side * side), dim3(kTile, kTileRows)}, transpose_squares_kernel,
         count, n, x);
}

void column_signs(CudaBackend& b, std::int64_t count, std::int64_t rows, std::int64_t cols, const float* x,
                  float* signs) {
  launch(b.stream(), {b.blocks_for(count * ((cols + kTile - 1) / kTile)), dim3(kTile, kTileRows)},
         column_signs_kernel, count, rows, cols, x, signs);
}

void signs_of(CudaBackend& b, std::int64_t n, std::int64_t step, const float* x, float* signs) {
  launch(b.stream(), {b.blocks_for((n + kThreads - 1) / kThreads), kThreads}, signs_kernel, n, step, x,
         signs);
}

void turn_columns(CudaBackend& b, std::int64_t count, std::int64_t rows, std::int64_t cols,
                  const float* signs, float* x) {
  turn<true>(b, count, rows, cols, signs, x);
}

void turn_rows(CudaBackend& b, std::int64_t count, std::int64_t rows, std::int64_t cols, const float* signs,
               float* x) {
  turn<false>(b, count, rows, cols, signs, x);
}

}  // namespace spectrain
