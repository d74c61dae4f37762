#include "kernels/cpu/isa/gemm.h"

#include "kernels/cpu/isa/gemm_pack.h"
#include "kernels/cpu/isa/gemm_tile.h"
#include "kernels/cpu/isa/vector_math.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace spectrain::SPECTRAIN_ISA {
namespace {

using Tile = void (*)(const void*, const void*, std::int64_t, float*, bool);

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t panels_of(std::int64_t size, std::int64_t width) { return (size + width - 1) / width; }

// Sums that fall below the normal range become zero while this lives: some processors take a hundred cycles
// for each subnormal number, and dying activations would make steps ten times slower.
class FlushSubnormals {
 public:
#if defined(__SSE2__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned saved_;
#else
  FlushSubnormals() {}
#endif
};

template <class T>
inline void finish_elements(const GemmProblem& p, const float* tile, const T* d, const float* bias,
                            std::int64_t count, T* c) {
  float v[kTileCols];
  for (std::int64_t j = 0; j < count; ++j) v[j] = p.alpha * tile[j];
  if (bias)
    for (std::int64_t j = 0; j < count; ++j) v[j] += bias[j];
  if (d)
    for (std::int64_t j = 0; j < count; ++j) v[j] += p.beta * load(d + j);
  for (std::int64_t j = 0; j < count; ++j) store(c + j, v[j]);
}

// The finished sums of a tile become elements [m0, m0 + rows) x [n0, n0 + cols) of C.
template <class T>
void finish_tile(const GemmProblem& p, const float* tile, std::int64_t m0, std::int64_t rows, std::int64_t n0,
                 std::int64_t cols) {
  const float* bias = p.bias ? p.bias + n0 : nullptr;
  for (std::int64_t i = 0; i < rows; ++i, tile += kTileCols) {
    const std::int64_t at = (m0 + i) * p.ldc + n0;
    const T* d = p.d ? static_cast<const T*>(p.d) + at : nullptr;
    T* c = static_cast<T*>(p.c) + at;
    if (cols == kTileCols)
      finish_elements(p, tile, d, bias, kTileCols, c);
    else
      finish_elements(p, tile, d, bias, cols, c);
  }
}

// Fetches the lines of C that a tile will be written to, while its sums are still being made.
inline void expect_tile(const GemmProblem& p, std::int64_t m0, std::int64_t rows, std::int64_t n0) {
  const std::int64_t size = p.c_bf16 ? 2 : 4;
  for (std::int64_t i = 0; i < rows; ++i) {
    const char* c = static_cast<const char*>(p.c) + ((m0 + i) * p.ldc + n0) * size;
    for (std::int64_t at = 0; at < kTileCols * size; at += 64) __builtin_prefetch(c + at, 1);
  }
}

// One piece of the contraction for a block: panels of A against panels of B. hold_b: a panel of B stays while
// A's pass by it (measured faster where B's panels come from far away), else the other way round.
struct Piece {
  const std::uint32_t* a;
  const std::uint32_t* b;
  std::int64_t a_stride, b_stride;  // words from one panel to the next
  std::int64_t steps;
  bool first, last;  // piece of the contraction
  bool single;       // the only one: sums need no place to wait in
  bool hold_b;
};

void run_piece(const GemmProblem& p, const GemmBlock& block, const Piece& piece, const Tile* tiles,
               float* sums) {
  const std::int64_t a_panels = panels_of(block.m1 - block.m0, kTileRows);
  const std::int64_t b_panels = panels_of(block.n1 - block.n0, kTileCols);
  for (std::int64_t t = 0; t < a_panels * b_panels; ++t) {
    const std::int64_t i = piece.hold_b ? t % a_panels : t / b_panels;
    const std::int64_t j = piece.hold_b ? t / a_panels : t % b_panels;
    const std::int64_t m0 = block.m0 + i * kTileRows, n0 = block.n0 + j * kTileCols;
    const std::int64_t rows = smaller(kTileRows, block.m1 - m0), cols = smaller(kTileCols, block.n1 - n0);
    float* tile = piece.single ? sums : sums + t * kTileSize;
    if (piece.last) expect_tile(p, m0, rows, n0);
    tiles[rows](piece.a + i * piece.a_stride, piece.b + j * piece.b_stride, piece.steps, tile, !piece.first);
    if (!piece.last) continue;
    if (p.c_bf16)
      finish_tile<std::uint16_t>(p, tile, m0, rows, n0, cols);
    else
      finish_tile<float>(p, tile, m0, rows, n0, cols);
  }
}

// Asks for elements [i0, i1) of rows [k0, k1) of memory: short runs a long way apart, which no processor
// foresees.
inline void fetch_rows(const GemmSource& s, std::int64_t i0, std::int64_t i1, std::int64_t k0,
                       std::int64_t k1) {
  const std::int64_t size = s.bf16 ? 2 : 4;
  for (std::int64_t k = k0; k < k1; ++k) {
    const char* row = static_cast<const char*>(s.data) + k * s.ld * size;
    for (std::int64_t at = i0 * size; at < i1 * size; at += 64) __builtin_prefetch(row + at);
  }
}

// The panels of rows [i0, i1) of an operand. Where these rows are neighbours in memory, a strip of k at a
// time for all panels: a panel alone would fetch a fresh page for a few bytes at every step.
template <int W, bool Pairs>
void pack_rows(const GemmSource& s, std::int64_t i0, std::int64_t i1, std::int64_t k0, std::int64_t k1,
               std::uint32_t* out) {
  constexpr std::int64_t kStep = Pairs ? 2 : 1, kStrip = 16 * kStep;
  const std::int64_t stride = panels_of(k1 - k0, kStep) * W;
  const std::int64_t strip = s.k_rows ? kStrip : k1 - k0;
  for (std::int64_t k = k0; k < k1; k += strip) {
    if (s.k_rows) fetch_rows(s, i0, i1, k + strip, smaller(k1, k + 2 * strip));
    for (std::int64_t i = i0, at = (k - k0) / kStep * W; i < i1; i += W, at += stride)
      pack_panel<W, Pairs>(s, i, smaller(W, i1 - i), k, smaller(k1, k + strip), out + at);
  }
}

// Columns of a block that are worked on together: their panels of B stay in the second-level cache while all
// the block's panels of A pass.
constexpr std::int64_t kStripCols = 256 / kTileCols * kTileCols;

template <bool Pairs>
void run_block(const GemmProblem& p, const GemmBlock& block, std::int64_t kc, const GemmScratch& scratch,
               const Tile* tiles) {
  constexpr std::int64_t kStep = Pairs ? 2 : 1;
  const FlushSubnormals flush;
  std::uint32_t* a = static_cast<std::uint32_t*>(scratch.a);
  std::uint32_t* b = static_cast<std::uint32_t*>(scratch.b);
  const std::int64_t whole = panels_of(p.k, kStep);  // words of k in a prepacked panel
  const std::int64_t a_panels = panels_of(block.m1 - block.m0, kTileRows);
  std::int64_t k0 = 0;
  do {
    const std::int64_t k1 = smaller(p.k, k0 + kc);
    const std::int64_t steps = panels_of(k1 - k0, kStep);
    Piece piece{a,       b,         steps * kTileRows, steps * kTileCols,    steps,
                k0 == 0, k1 == p.k, kc >= p.k,         p.b_panels != nullptr};
    pack_rows<kTileRows, Pairs>(p.a, block.m0, block.m1, k0, k1, a);
    float* sums = scratch.c;
    for (std::int64_t n0 = block.n0; n0 < block.n1; n0 += kStripCols) {
      const GemmBlock strip{block.m0, block.m1, n0, smaller(block.n1, n0 + kStripCols)};
      if (p.b_panels) {
        piece.b_stride = whole * kTileCols;
        piece.b = static_cast<const std::uint32_t*>(p.b_panels) + n0 / kTileCols * piece.b_stride +
                  k0 / kStep * kTileCols;
      } else {
        pack_rows<kTileCols, Pairs>(p.b, strip.n0, strip.n1, k0, k1, b);
      }
      run_piece(p, strip, piece, tiles, sums);
      if (!piece.single) sums += a_panels * panels_of(strip.n1 - strip.n0, kTileCols) * kTileSize;
    }
    k0 = k1;
  } while (k0 < p.k);
}

template <bool Pairs>
void pack_panels(const GemmSource& b, std::int64_t n, std::int64_t k, std::int64_t first, std::int64_t last,
                 void* panels) {
  const std::int64_t stride = panels_of(k, Pairs ? 2 : 1) * kTileCols;
  for (std::int64_t i = first; i < last; ++i)
    pack_panel<kTileCols, Pairs>(b, i * kTileCols, smaller(kTileCols, n - i * kTileCols), 0, k,
                                 static_cast<std::uint32_t*>(panels) + i * stride);
}

// In squares of 16 so that both the rows read and the rows written stay in the first-level cache.
template <class T>
void mirror_block(T* c, std::int64_t ldc, const GemmBlock& block) {
  for (std::int64_t i0 = block.m0; i0 < block.m1; i0 += 16)
    for (std::int64_t j0 = block.n0; j0 < block.n1; j0 += 16) {
      const std::int64_t i1 = smaller(i0 + 16, block.m1), j1 = smaller(j0 + 16, block.n1);
      for (std::int64_t j = j0; j < j1; ++j)
        for (std::int64_t i = i0 > j ? i0 : j + 1; i < i1; ++i) c[j * ldc + i] = c[i * ldc + j];
    }
}

void mirror(const GemmProblem& p, const GemmBlock& block) {
  if (p.c_bf16)
    mirror_block(static_cast<std::uint16_t*>(p.c), p.ldc, block);
  else
    mirror_block(static_cast<float*>(p.c), p.ldc, block);
}

// Groups of 64 rows first, then the groups: the rounding error grows with the square root of rows / 64, not
// rows.
template <class T>
void add_columns(const T* x, std::int64_t ld, std::int64_t rows, std::int64_t count, float* sums) {
  for (std::int64_t j = 0; j < count; ++j) sums[j] = 0;
  for (std::int64_t r0 = 0; r0 < rows; r0 += 64) {
    float group[64] = {};
    const std::int64_t r1 = smaller(rows, r0 + 64);
    for (std::int64_t r = r0; r < r1; ++r) {
      const T* row = x + r * ld;
      if (count == 64) {
        for (int j = 0; j < 64; ++j) group[j] += load(row + j);
      } else {
        for (std::int64_t j = 0; j < count; ++j) group[j] += load(row + j);
      }
    }
    for (std::int64_t j = 0; j < count; ++j) sums[j] += group[j];
  }
}

void column_sums(const GemmSource& x, std::int64_t rows, std::int64_t first, std::int64_t count,
                 float* sums) {
  const FlushSubnormals flush;
  if (x.bf16)
    add_columns(static_cast<const std::uint16_t*>(x.data) + first, x.ld, rows, count, sums);
  else
    add_columns(static_cast<const float*>(x.data) + first, x.ld, rows, count, sums);
}

#if defined(SPECTRAIN_ISA_avx512)
#define SPECTRAIN_TILES(f) \
  { nullptr, f<1>, f<2>, f<3>, f<4>, f<5>, f<6>, f<7>, f<8>, f<9>, f<10>, f<11>, f<12> }
#else
#define SPECTRAIN_TILES(f) \
  { nullptr, f<1>, f<2>, f<3>, f<4>, f<5>, f<6> }
#endif

void block_f32(const GemmProblem& p, const GemmBlock& block, std::int64_t kc, const GemmScratch& scratch) {
  static constexpr Tile kTiles[kTileRows + 1] = SPECTRAIN_TILES(tile_f32);
  run_block<false>(p, block, kc, scratch, kTiles);
}

constexpr GemmKernels kFloat{kTileRows, kTileCols, 1, block_f32, pack_panels<false>, mirror, column_sums};

#if defined(SPECTRAIN_ISA_avx512)
void block_pairs(const GemmProblem& p, const GemmBlock& block, std::int64_t kc, const GemmScratch& scratch) {
  static constexpr Tile kTiles[kTileRows + 1] = SPECTRAIN_TILES(tile_pairs);
  run_block<true>(p, block, kc, scratch, kTiles);
}

constexpr GemmKernels kPairs{kTileRows, kTileCols, 2, block_pairs, pack_panels<true>, mirror, column_sums};
#else
constexpr GemmKernels kPairs{kTileRows, kTileCols, 2, nullptr, nullptr, mirror, column_sums};
#endif

}  // namespace

extern const GemmTable gemm_table;
const GemmTable gemm_table{kFloat, kPairs};

}  // namespace spectrain::SPECTRAIN_ISA
