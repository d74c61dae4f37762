#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.h"
#include "kernels/cuda/triangle.h"
#include "kernels/cuda/wgmma.h"
#include "kernels/cuda/words.h"

// Symmetric products of 16-bit matrices on the tensor cores.
//
// Floor: m (m + 128) k operations, half of a general product's; at 768 with tiles of 128 that is 7/12 of the
// general one. Each block computes tiles of 128 x 128 in steps of 64 along k. The slabs of three steps are in
// shared memory: while one is multiplied, the next two are on their way (cp.async). 96 KiB and 256 threads,
// so that two blocks share a multiprocessor of a Hopper GPU and one multiplies while the other waits at its
// barrier or writes its result. The result goes through shared memory: rows and mirrored rows both leave in
// lines of 256 bytes.
//
// Two ways to multiply, one frame: Warps with mma.sync (sm_80 and later), Warpgroups with wgmma (sm_90a),
// which reads its operands from shared memory once for four warps. Sums run over k in a fixed order: the bits
// do not depend on the batch or the number of blocks.

namespace spectrain {
namespace {

constexpr int kThreads = 256, kStages = 3, kTile = kTriangleTile;
constexpr int kSlabBytes = kTile * kSlabRowBytes, kStageBytes = 2 * kSlabBytes;
constexpr std::size_t kShared = std::size_t{kStages} * kStageBytes;
constexpr int kChunks = kSlabRowBytes / 16;
static_assert(kTile * (kTile * sizeof(float) + 16) <= kShared, "the result passes where the slabs were");

__device__ inline int warp() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int lane() { return static_cast<int>(threadIdx.x) % kWarp; }

// Each warp a quarter of 32 columns of 64 rows.
template <class T>
struct Warps {
  static constexpr int kRows = 4, kCols = 4;  // fragments of 16 x 8
  static constexpr int kBlocks = 1;           // on a multiprocessor: before Hopper there is no room for two
  float acc[kRows][kCols][4] = {};

  __device__ static int row() { return warp() / 4 * 64; }
  __device__ static int col() { return warp() % 4 * 32; }
  __device__ static void operands_written() {}
  __device__ void multiply(const unsigned char* a, const unsigned char* b) {
#pragma unroll
    for (int k = 0; k < kSlabCols / 16; ++k) {
      std::uint32_t left[kRows][4];
#pragma unroll
      for (int i = 0; i < kRows; ++i)
        load_matrices(left[i], a + slab_offset(row() + 16 * i + lane() % 16, 2 * k + lane() / 16));
#pragma unroll
      for (int j = 0; j < kCols; j += 2) {
        std::uint32_t right[4];  // k and k+8 of eight columns, then of the next eight
        load_matrices(right,
                      b + slab_offset(col() + 8 * j + lane() / 16 * 8 + lane() % 8, 2 * k + lane() / 8 % 2));
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
          mma(acc[i][j], left[i], right[0], right[1]);
          mma(acc[i][j + 1], left[i], right[2], right[3]);
        }
      }
    }
  }

 private:
  __device__ static void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
    if constexpr (std::is_same_v<T, f16>)
      mma_f16(c, a, b0, b1);
    else
      mma_bf16(c, a, b0, b1);
  }
};

// Each of the two warpgroups 64 rows.
template <class T>
struct Warpgroups {
  static constexpr int kRows = 1, kCols = 16;
  static constexpr int kBlocks = 2;
  float acc[kRows][kCols][4] = {};

  __device__ static int row() { return warp() * 16; }
  __device__ static int col() { return 0; }
  __device__ static void operands_written() { fence_for_wgmma(); }
  __device__ void multiply(const unsigned char* a, const unsigned char* b) {
    const std::uint64_t left = slab_descriptor(a + warp() / 4 * kWgmmaRows * kSlabRowBytes),
                        right = slab_descriptor(b);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kSlabCols / 16; ++k)
      wgmma_m64n128k16<T>(acc[0], left + static_cast<unsigned>(k) * (kSlabStep >> 4),
                          right + static_cast<unsigned>(k) * (kSlabStep >> 4));
    wgmma_commit();
    wgmma_wait<0>();  // the other block of this multiprocessor multiplies meanwhile
  }
};

// Where this thread's chunks of 128 rows of a matrix come from.
template <class T>
struct Rows {
  static constexpr int kApart = kThreads / kChunks;  // rows between two of a thread's chunks
  const T* first;
  std::int64_t apart;  // elements between them
  int rows, cols;      // chunks whose row exists; elements from `first` to its row's end

  __device__ Rows(const T* matrix, std::int64_t row, std::int64_t m, std::int64_t k) : apart(kApart * k) {
    row += place(0);
    const std::int64_t column = chunk() * 8;
    const bool there = row < m && column < k;
    first = matrix + (there ? row * k + column : 0);
    rows = there ? static_cast<int>((m - row + kApart - 1) / kApart) : 0;
    cols = static_cast<int>(k - column);
  }
  __device__ static int chunk() { return static_cast<int>(threadIdx.x) % kChunks; }
  __device__ static int place(int i) { return static_cast<int>(threadIdx.x) / kChunks + i * kApart; }
  __device__ void load(unsigned char* slab, int k) const {
#pragma unroll
    for (int i = 0; i < kTile / kApart; ++i) {
      const bool there = i < rows && k < cols;
      copy_async(slab + slab_offset(place(i), chunk()), first + (there ? i * apart + k : 0), there);
    }
  }
};

// The tile's result, in shared memory between two orders of threads.
template <class Out>
struct Passage {
  static constexpr int kStride = kTile + 16 / static_cast<int>(sizeof(Out));  // rows begin in other banks
  Out* tile;

  __device__ Out& at(int row, int col) { return tile[row * kStride + col]; }
  // To c at (row, col), whole lines.
  __device__ void write(Out* c, std::int64_t m, std::int64_t row, std::int64_t col) const {
    constexpr int kAcross = kTile / kPack<Out>;
    for (int e = static_cast<int>(threadIdx.x); e < kTile * kAcross; e += kThreads) {
      const int r = e / kAcross, q = e % kAcross * kPack<Out>;
      if (row + r < m && col + q < m)
        store_words(reinterpret_cast<Words<Out, kPack<Out>>*>(c + (row + r) * m + col + q),
                    load_words<kPack<Out>>(tile + r * kStride + q));
    }
  }
};

// acc = alpha acc + beta d
template <class Out, class Multiplier>
__device__ inline void finish(Multiplier& x, const SymmetricProduct& p, const TriangleTile& t, const Out* d) {
  const int g = lane() / 4, pair = lane() % 4 * 2;
#pragma unroll
  for (int i = 0; i < Multiplier::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Multiplier::kCols; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const std::int64_t row = t.row + Multiplier::row() + 16 * i + 8 * h + g,
                           col = t.col + Multiplier::col() + 8 * j + pair;
        float& low = x.acc[i][j][2 * h];
        float& high = x.acc[i][j][2 * h + 1];
        low *= p.alpha;
        high *= p.alpha;
        if (d != nullptr && row < p.m && col < p.m) {
          const auto add = *reinterpret_cast<const Pack<Out, 2>*>(d + row * p.m + col);
          low += p.beta * widen(add.v[0]);
          high += p.beta * widen(add.v[1]);
        }
      }
}

// Calls put(row, col, value) with this thread's elements of the tile.
template <class Multiplier, class Put>
__device__ inline void each_element(const Multiplier& x, Put put) {
  const int g = lane() / 4, pair = lane() % 4 * 2;
#pragma unroll
  for (int i = 0; i < Multiplier::kRows; ++i)
#pragma unroll
    for (int j = 0; j < Multiplier::kCols; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        put(Multiplier::row() + 16 * i + e / 2 * 8 + g, Multiplier::col() + 8 * j + pair + e % 2,
            x.acc[i][j][e]);
}

template <class Out, class Multiplier>
__device__ inline void write_tile(const Multiplier& x, Passage<Out> pass, Out* c, std::int64_t m,
                                  const TriangleTile& t) {
  if (t.diagonal()) {
    // Below the diagonal the tile is its own mirror, whatever the hardware's sums above it are.
    each_element(x, [&](int row, int col, float value) {
      if (row < col) return;
      pass.at(row, col) = pass.at(col, row) = narrow<Out>(value);
    });
    __syncthreads();
    pass.write(c, m, t.row, t.col);
  } else {
    each_element(x, [&](int row, int col, float value) { pass.at(row, col) = narrow<Out>(value); });
    __syncthreads();
    pass.write(c, m, t.row, t.col);
    __syncthreads();
    each_element(x, [&](int row, int col, float value) { pass.at(col, row) = narrow<Out>(value); });
    __syncthreads();
    pass.write(c, m, t.col, t.row);
  }
  __syncthreads();
}

template <class T, class Out, class Multiplier>
__global__ void __launch_bounds__(kThreads, Multiplier::kBlocks)
    symmetric_kernel(SymmetricProduct p, std::int64_t tiles) {
  auto* const shared = static_cast<unsigned char*>(dynamic_shared());
  const auto steps = static_cast<int>((p.k + kSlabCols - 1) / kSlabCols);
  for (std::int64_t work = blockIdx.x; work < p.batch * tiles; work += gridDim.x) {
    const TriangleTile t = triangle_tile(work, tiles);
    const std::int64_t first = t.matrix * p.m * p.k;
    const Rows<T> a(static_cast<const T*>(p.a) + first, t.row, p.m, p.k),
        b(static_cast<const T*>(p.b) + first, t.col, p.m, p.k);
    const bool square = t.diagonal() && p.a == p.b;  // then one slab is both operands
    const auto load = [&](int step) {
      unsigned char* const stage = shared + step % kStages * kStageBytes;
      a.load(stage, step * kSlabCols);
      if (!square) b.load(stage + kSlabBytes, step * kSlabCols);
    };

    Multiplier x;
    for (int step = 0; step < kStages - 1; ++step) {
      if (step < steps) load(step);
      copies_commit();
    }
    for (int step = 0; step < steps; ++step) {
      copies_wait<kStages - 2>();
      Multiplier::operands_written();
      // Behind it this step's slabs are there for all, and the last step's are nobody's any more.
      __syncthreads();
      if (step + kStages - 1 < steps) load(step + kStages - 1);
      copies_commit();
      const unsigned char* const stage = shared + step % kStages * kStageBytes;
      x.multiply(stage, square ? stage : stage + kSlabBytes);
    }
    const std::int64_t result = t.matrix * p.m * p.m;
    finish(x, p, t, p.d != nullptr ? static_cast<const Out*>(p.d) + result : nullptr);
    __syncthreads();
    write_tile(x, Passage<Out>{reinterpret_cast<Out*>(shared)}, static_cast<Out*>(p.c) + result, p.m, t);
  }
}

// Whether this build has code with wgmma.
bool has_wgmma() {
#ifdef SPECTRAIN_EMULATED_CUDA
  return true;
#else
  return std::string_view("," SPECTRAIN_CUDA_CODE ",").find(",90a-real,") != std::string_view::npos;
#endif
}

template <class T, class Out>
void start(CudaBackend& backend, const SymmetricProduct& p) {
  const bool wgmma = backend.capability() == 90 && has_wgmma();
  const std::int64_t tiles = triangle_tiles(p.m);
  const Grid grid{backend.blocks_for(p.batch * tiles, 2), kThreads, kShared};
  launch(backend.stream(), grid,
         wgmma ? symmetric_kernel<T, Out, Warpgroups<T>> : symmetric_kernel<T, Out, Warps<T>>, p, tiles);
}

template <class T>
void start(CudaBackend& backend, const SymmetricProduct& p) {
  if (p.result == DType::f32)
    start<T, float>(backend, p);
  else
    start<T, T>(backend, p);
}

}  // namespace

bool fits_tensor_cores(const SymmetricProduct& p) {
  const auto aligned = [](const void* x) { return reinterpret_cast<std::uintptr_t>(x) % 16 == 0; };
  return p.factors != DType::f32 && p.m % 8 == 0 && p.k % 8 == 0 && aligned(p.a) && aligned(p.b) &&
         aligned(p.c) && aligned(p.d);
}

void symmetric_by_tensor_cores(CudaBackend& backend, const SymmetricProduct& p) {
  if (p.factors == DType::f16)
    start<f16>(backend, p);
  else
    start<bf16>(backend, p);
}

}  // namespace spectrain
