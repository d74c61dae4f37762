#include "kernels/cuda/convert.h"
#include "kernels/cuda/fp8_kernels.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/words.h"

namespace spectrain {
namespace {

// A tile of 128 rows and 64 columns passes through a block; a thread has 8 columns of 4 rows.
constexpr int kThreads = 256, kTileRows = 128, kTileCols = 64, kRows = 4, kCols = 8;
constexpr int kGroups = kTileCols / kCols, kQuads = kTileRows / 16;
static_assert(kThreads == kGroups * (kTileRows / kRows));

// The bits of two numbers, the first in the low byte.
template <Fp8 format>
__device__ inline std::uint32_t two_bytes(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint16_t pair;
  if constexpr (format == Fp8::e4m3)
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  else
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
#else
  return fp8_bits(format, low) | static_cast<std::uint32_t>(fp8_bits(format, high)) << 8;
#endif
}

// Word j becomes byte j of each of the four words.
__device__ inline void transpose_bytes(std::uint32_t (&w)[4]) {
  const std::uint32_t a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140),
                      c = __byte_perm(w[0], w[1], 0x7362), d = __byte_perm(w[2], w[3], 0x7362);
  w[0] = __byte_perm(a, b, 0x5410);
  w[1] = __byte_perm(a, b, 0x7632);
  w[2] = __byte_perm(c, d, 0x5410);
  w[3] = __byte_perm(c, d, 0x7632);
}

// A thread's numbers of one row: zeros beyond the end of the row.
template <bool packed, class X>
__device__ inline Pack<X, kCols> load_row(const X* x, std::int64_t left) {
  Pack<X, kCols> in = {};
  if constexpr (packed) {
    if (left > 0) in = load_some<kCols>(x);
  } else {
    for (int k = 0; k < kCols; ++k)
      if (k < left) in.v[k] = x[k];
  }
  return in;
}

// Stores bytes, as many of them as are left.
template <bool packed, class W, int N>
__device__ inline void store_bytes(std::uint8_t* to, const W& wide, const std::uint32_t (&words)[N],
                                   std::int64_t left) {
  if constexpr (packed) {
    if (left > 0) store_words(reinterpret_cast<W*>(to), wide);
  } else {
    for (int k = 0; k < 4 * N; ++k)
      if (k < left) to[k] = static_cast<std::uint8_t>(words[k / 4] >> (8 * (k % 4)));
  }
}

// Floor: one reading of x, and two writings of a byte for each number. `packed`: rows and columns of x begin
// at multiples of the packs they are moved in.
template <Fp8 format, bool packed, class X>
__global__ void __launch_bounds__(kThreads)
    encode_kernel(const X* x, std::uint8_t* along, std::uint8_t* across, std::int64_t rows, std::int64_t cols,
                  float scale) {
  // [column][16 rows]: 32 words of 4 rows each. The words of a column are exchanged by a pattern of its own,
  // so that the lanes of a warp meet in no bank, neither here nor there.
  __shared__ uint4 tile[kTileCols][kQuads];
  const int group = static_cast<int>(threadIdx.x) % kGroups, four = static_cast<int>(threadIdx.x) / kGroups;
  const std::int64_t tiles_across = (cols + kTileCols - 1) / kTileCols,
                     tiles = tiles_across * ((rows + kTileRows - 1) / kTileRows);
  for (std::int64_t t = blockIdx.x; t < tiles; t += gridDim.x) {
    const std::int64_t row = t / tiles_across * kTileRows, col = t % tiles_across * kTileCols;
    const std::int64_t own_row = row + four * kRows, own_col = col + group * kCols;
    const std::int64_t first = own_row * cols + own_col;
    Pack<X, kCols> in[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i)
      in[i] = load_row<packed>(x + first + i * cols, own_row + i < rows ? cols - own_col : 0);
    std::uint32_t words[2][kRows];  // of columns 0 to 3 and 4 to 7
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const X* v = in[i].v + 4 * half;
        words[half][i] = two_bytes<format>(scale * widen(v[0]), scale * widen(v[1])) |
                         two_bytes<format>(scale * widen(v[2]), scale * widen(v[3])) << 16;
      }
      const std::uint32_t both[2] = {words[0][i], words[1][i]};
      store_bytes<packed>(along + first + i * cols, uint2{both[0], both[1]}, both,
                          own_row + i < rows ? cols - own_col : 0);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      transpose_bytes(words[half]);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        reinterpret_cast<unsigned*>(tile[group * kCols + 4 * half + k])[four ^ (4 * group)] = words[half][k];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kTileCols * kQuads / kThreads; ++i) {
      const int q = i * kThreads + static_cast<int>(threadIdx.x), c = q / kQuads, quad = q % kQuads;
      const uint4 x16 = tile[c][quad ^ (c / kCols)];
      const std::uint32_t all[4] = {x16.x, x16.y, x16.z, x16.w};
      const std::int64_t at = row + 16 * quad;
      store_bytes<packed>(across + (col + c) * rows + at, x16, all, col + c < cols ? rows - at : 0);
    }
    __syncthreads();
  }
}

__global__ void decode_kernel(const std::uint8_t* bits, bf16* x, std::int64_t n, Fp8 format, float back) {
  SPECTRAIN_GRID_LOOP(i, n) x[i] = narrow<bf16>(fp8_value(format, bits[i]) * back);
}

template <Fp8 format, class X>
void start(CudaBackend& b, const X* x, std::uint8_t* bits, std::int64_t rows, std::int64_t cols,
           float scale) {
  std::uint8_t* across = bits + rows * cols;
  const bool packed = cols % kCols == 0 && rows % 16 == 0 && aligned_for(kPack<X>, x) &&
                      aligned_for(kCols, bits) && aligned_for(16, across);
  const std::int64_t tiles = ((cols + kTileCols - 1) / kTileCols) * ((rows + kTileRows - 1) / kTileRows);
  launch(b.stream(), {b.blocks_for(tiles), kThreads},
         packed ? encode_kernel<format, true, X> : encode_kernel<format, false, X>, x, bits, across, rows,
         cols, scale);
}

}  // namespace

void encode_both_ways(CudaBackend& backend, Fp8 format, double scale, const Tensor& x, std::uint8_t* bits) {
  if (x.numel() == 0) return;
  with_compute(x, "encode_fp8", [&](const auto* p) {
    using X = std::remove_cv_t<Element<decltype(p)>>;
    const auto factor = static_cast<float>(scale);
    if (format == Fp8::e4m3)
      start<Fp8::e4m3, X>(backend, p, bits, x.rows(), x.cols(), factor);
    else
      start<Fp8::e5m2, X>(backend, p, bits, x.rows(), x.cols(), factor);
  });
}

void decode_fp8(CudaBackend& backend, Fp8 format, double scale, const std::uint8_t* bits, const Tensor& x) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  launch(backend.stream(), {backend.blocks_for((n + kThreads - 1) / kThreads), kThreads}, decode_kernel, bits,
         x.as<bf16>(), n, format, static_cast<float>(1 / scale));
}

}  // namespace spectrain
