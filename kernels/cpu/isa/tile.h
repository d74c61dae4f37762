#pragma once

#include <cstdint>

#include "kernels/cpu/isa/vector_math.h"

// Products of small float tiles that lie in the caches, for files compiled per instruction set only (isa.h).
// A tile is a row-major block of floats, aligned to 64 bytes, its leading dimension a multiple of 16.

namespace spectrain::SPECTRAIN_ISA {

#if defined(SPECTRAIN_ISA_avx512)
inline constexpr int kLanes = 16;
inline constexpr int kWidest =
    4;  // vectors in a row of the register block: 4 x 4 accumulators of 32 registers
#elif defined(SPECTRAIN_ISA_avx2)
inline constexpr int kLanes = 8;
inline constexpr int kWidest = 2;  // 4 x 2 accumulators of 16 registers: just hides the latency of the FMA
#else
inline constexpr int kLanes = 4;
inline constexpr int kWidest = 2;
#endif

using Vec = float __attribute__((vector_size(4 * kLanes), may_alias));

inline Vec load_vec(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store_vec(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }

// e^x for x <= 0 (a rounding above does no harm), the weight of a score x below the largest: exp_fast without
// what only large arguments need. Below -80 it is 0: beside the largest weight, 1, such a one is nothing, and
// its products would be denormal. NaN gives NaN.
inline float exp_weight(float x) {
  const float clamped = x < -80.0f ? -80.0f : x;
  const float shifted = clamped * 1.44269504088896f + 12582912.0f;  // 1.5 * 2^23: rounds to an integer
  const float n = shifted - 12582912.0f;
  float r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  // The integer stands in the lowest bits of `shifted`; moved into the exponent, they are 2^n.
  const float y = p * as_float((as_bits(shifted) << 23) + 0x3f800000u);
  return x < -80.0f ? 0.0f : y;
}

// What a causal mask leaves of a product on the diagonal of the score matrix, r being the row of c:
enum class Part {
  all,
  k_to_row,    // terms k <= r only      (p . v and ds . k: later keys have weight zero)
  k_from_row,  // terms k >= r only      (their transposes)
  n_to_row,    // columns n <= r only    (q . k^T: the rest of c is left as it was)
};

// c[Rows, NV * kLanes] (+)= a . b over k in [first, last); a[r][k], or a[k][r] when transposed.
template <int Rows, int NV, bool TransposeA>
inline void tile_block(std::int64_t first, std::int64_t last, const float* a, std::int64_t lda,
                       const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  Vec sum[Rows][NV];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) sum[i][j] = accumulate ? load_vec(c + i * ldc + j * kLanes) : Vec{};
  for (std::int64_t k = first; k < last; ++k) {
    Vec row[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) row[j] = load_vec(b + k * ldb + j * kLanes);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const float x = TransposeA ? a[k * lda + i] : a[i * lda + k];
      const Vec wide = x - Vec{};
#pragma GCC unroll 8
      for (int j = 0; j < NV; ++j) sum[i][j] += wide * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < NV; ++j) store_vec(c + i * ldc + j * kLanes, sum[i][j]);
}

// Eight rows of c. Narrow blocks take all eight at once so that enough sums are under way to fill the
// pipeline.
template <int NV, bool TransposeA>
inline void tile_rows(std::int64_t first, std::int64_t last, const float* a, std::int64_t lda, const float* b,
                      std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  constexpr int kRows = kLanes == 16 ? (NV <= 2 ? 8 : 4) : (NV == 1 ? 8 : 4);
  for (int i = 0; i < 8; i += kRows)
    tile_block<kRows, NV, TransposeA>(first, last, TransposeA ? a + i : a + i * lda, lda, b, ldb, c + i * ldc,
                                      ldc, accumulate);
}

// c[M,N] (+)= op(a)[M,K] . b[K,N]. M a multiple of 8, N of 16. Of a sum that does not accumulate and has no
// terms (k_from_row beyond K) the result is zero.
template <bool TransposeA, Part part>
inline void tile_product(std::int64_t M, std::int64_t N, std::int64_t K, const float* a, std::int64_t lda,
                         const float* b, std::int64_t ldb, float* c, std::int64_t ldc, bool accumulate) {
  // Column panels outside: one panel of b stays in the first-level cache while all rows pass over it.
  for (std::int64_t n = 0; n < N; n += kWidest * kLanes) {
    for (std::int64_t r = 0; r < M; r += 8) {
      std::int64_t first = 0, last = K, columns = N - n;
      if constexpr (part == Part::k_to_row) last = r + 8 < K ? r + 8 : K;
      if constexpr (part == Part::k_from_row) first = r;
      if constexpr (part == Part::n_to_row) columns = r + 8 - n < columns ? r + 8 - n : columns;
      if (columns <= 0) continue;
      const std::int64_t vectors = (columns + kLanes - 1) / kLanes;
      const float* ar = TransposeA ? a + r : a + r * lda;
      float* cr = c + r * ldc + n;
      if constexpr (kWidest == 4) {
        if (vectors >= 4) {
          tile_rows<4, TransposeA>(first, last, ar, lda, b + n, ldb, cr, ldc, accumulate);
          continue;
        }
        if (vectors == 3) {
          tile_rows<3, TransposeA>(first, last, ar, lda, b + n, ldb, cr, ldc, accumulate);
          continue;
        }
      }
      if (vectors >= 2)
        tile_rows<2, TransposeA>(first, last, ar, lda, b + n, ldb, cr, ldc, accumulate);
      else
        tile_rows<1, TransposeA>(first, last, ar, lda, b + n, ldb, cr, ldc, accumulate);
    }
  }
}

inline Vec interleave_low(Vec a, Vec b) {
#if defined(SPECTRAIN_ISA_avx512)
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
#elif defined(SPECTRAIN_ISA_avx2)
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
#else
  return __builtin_shufflevector(a, b, 0, 4, 1, 5);
#endif
}

inline Vec interleave_high(Vec a, Vec b) {
#if defined(SPECTRAIN_ISA_avx512)
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(SPECTRAIN_ISA_avx2)
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
  return __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
}

// to[c][r] = from[r][c] for r < rows, c < cols, both multiples of 16.
inline void tile_transpose(std::int64_t rows, std::int64_t cols, const float* from, std::int64_t ld_from,
                           float* to, std::int64_t ld_to) {
  constexpr int W = kLanes;
  for (std::int64_t r = 0; r < rows; r += W)
    for (std::int64_t c = 0; c < cols; c += W) {
      Vec x[W], y[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) x[i] = load_vec(from + (r + i) * ld_from + c);
        // log2(W) perfect shuffles of the rows transpose the square.
#pragma GCC unroll 4
      for (int stage = 1; stage < W; stage *= 2) {
#pragma GCC unroll 16
        for (int i = 0; i < W / 2; ++i) {
          y[2 * i] = interleave_low(x[i], x[i + W / 2]);
          y[2 * i + 1] = interleave_high(x[i], x[i + W / 2]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < W; ++i) x[i] = y[i];
      }
#pragma GCC unroll 16
      for (int i = 0; i < W; ++i) store_vec(to + (c + i) * ld_to + r, x[i]);
    }
}

}  // namespace spectrain::SPECTRAIN_ISA
