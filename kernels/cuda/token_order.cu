#include <utility>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/token_order.h"

namespace spectrain {
namespace {

constexpr int kThreads = 256;
constexpr int kBits = 8, kBins = 1 << kBits;  // of a pass
constexpr int kTile = 1024;                   // rows of one block

// What a pass reads: row numbers in the order of the passes before, and the digit it sorts by.
struct Digits {
  const std::int32_t* tokens;
  const std::int32_t* from;  // null: 0, 1, 2 ...
  std::int64_t rows;
  std::int32_t vocab;
  int shift;
  __device__ std::int32_t row(std::int64_t i) const { return from ? from[i] : static_cast<std::int32_t>(i); }
  __device__ int digit(std::int32_t r) const { return token_key(tokens[r], vocab) >> shift & (kBins - 1); }
};

// counts[digit][tile]: rows of the tile with this digit. Whole numbers: atomic additions in any order give
// the same.
__global__ void __launch_bounds__(kThreads) count_kernel(Digits d, std::int64_t tiles, unsigned* counts) {
  __shared__ unsigned bins[kBins];
  static_assert(kBins == kThreads);
  for (std::int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    bins[threadIdx.x] = 0;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kTile && t * kTile + i < d.rows; i += kThreads)
      atomicAdd(&bins[d.digit(d.row(t * kTile + i))], 1u);
    __syncthreads();
    counts[threadIdx.x * tiles + t] = bins[threadIdx.x];
  }
}

constexpr int kScanThreads = 1024, kEach = 8;

// counts[i] = the sum of all before it. By one block, 8192 numbers at a time; n is a multiple of 8.
__global__ void __launch_bounds__(kScanThreads) scan_kernel(unsigned* counts, std::int64_t n) {
  __shared__ unsigned warps[2][kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  unsigned before = 0;
  int turn = 0;  // the warps' sums of two turns in a row are kept apart: one barrier is enough
  for (std::int64_t first = 0; first < n; first += kScanThreads * kEach, turn ^= 1) {
    const std::int64_t i = first + static_cast<std::int64_t>(threadIdx.x) * kEach;
    Pack<unsigned, kEach> x{};
    if (i < n) x = *reinterpret_cast<const Pack<unsigned, kEach>*>(counts + i);
    unsigned sum = 0;
    for (unsigned& v : x.v) sum = (v = sum + v);
    unsigned through = sum;  // of the warp up to this lane
    for (int k = 1; k < kWarp; k *= 2) {
      const unsigned other = __shfl_up_sync(kWholeWarp, through, k);
      if (lane >= k) through += other;
    }
    if (lane == kWarp - 1) warps[turn][warp] = through;
    __syncthreads();
    unsigned offset = before + through - sum;
    for (int w = 0; w < kWarp; ++w) {
      if (w < warp) offset += warps[turn][w];
      before += warps[turn][w];
    }
    for (int k = kEach - 1; k > 0; --k) x.v[k] = offset + x.v[k - 1];
    x.v[0] = offset;
    if (i < n) *reinterpret_cast<Pack<unsigned, kEach>*>(counts + i) = x;
  }
}

// Each row to its place. Places within a tile are given out by one warp, 32 rows at a time in their order, so
// that rows of one digit stay in it.
__global__ void __launch_bounds__(kThreads)
    place_kernel(Digits d, std::int64_t tiles, const unsigned* counts, std::int32_t* to) {
  __shared__ unsigned next[kBins];
  __shared__ std::int32_t rows[kTile];
  __shared__ std::uint8_t digits[kTile];
  for (std::int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    next[threadIdx.x] = counts[threadIdx.x * tiles + t];
    const int n = static_cast<int>(d.rows - t * kTile < kTile ? d.rows - t * kTile : kTile);
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
      rows[i] = d.row(t * kTile + i);
      digits[i] = static_cast<std::uint8_t>(d.digit(rows[i]));
    }
    __syncthreads();
    // The last warp: where threads run in the opposite order, it is the first that could miss the barrier.
    if (threadIdx.x >= kThreads - kWarp) {
      const int lane = static_cast<int>(threadIdx.x) % kWarp;
      for (int i = lane; i - lane < n; i += kWarp) {
        const bool here = i < n;
        const int digit = here ? digits[i] : 0;
        unsigned same = __ballot_sync(kWholeWarp, here);  // lanes with this lane's digit
        for (int k = 0; k < kBits; ++k) {
          const bool set = digit >> k & 1;
          const unsigned with = __ballot_sync(kWholeWarp, set);
          same &= set ? with : ~with;
        }
        const unsigned below = same & ((1u << lane) - 1u);
        const unsigned place = next[digit] + static_cast<unsigned>(__popc(below));
        __syncwarp();
        if (here) {
          to[place] = rows[i];
          if (below == 0) next[digit] += static_cast<unsigned>(__popc(same));
        }
        __syncwarp();
      }
    }
    __syncthreads();
  }
}

std::int64_t tiles_of(std::int64_t rows) { return (rows + kTile - 1) / kTile; }

}  // namespace

std::size_t token_order_bytes(std::int64_t rows) {
  // The counts, then the order between two passes.
  return static_cast<std::size_t>(tiles_of(rows)) * kBins * sizeof(unsigned) +
         static_cast<std::size_t>(rows) * sizeof(std::int32_t);
}

void order_by_token(CudaBackend& backend, const std::int32_t* tokens, std::int64_t rows, std::int32_t vocab,
                    void* space, std::int32_t* order) {
  const std::int64_t tiles = tiles_of(rows);
  auto* counts = static_cast<unsigned*>(space);
  auto* other = reinterpret_cast<std::int32_t*>(counts + tiles * kBins);
  int passes = 1;
  while (passes * kBits < 31 && vocab >> (passes * kBits) != 0) ++passes;
  std::int32_t* to = passes % 2 == 1 ? order : other;  // so that the last pass ends in `order`
  std::int32_t* from = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    const Digits d{tokens, from, rows, vocab, pass * kBits};
    const Grid grid{backend.blocks_for(tiles), kThreads};
    launch(backend.stream(), grid, count_kernel, d, tiles, counts);
    launch(backend.stream(), {1, kScanThreads}, scan_kernel, counts, tiles * kBins);
    launch(backend.stream(), grid, place_kernel, d, tiles, counts, to);
    from = to;
    to = to == order ? other : order;
  }
}

}  // namespace spectrain
