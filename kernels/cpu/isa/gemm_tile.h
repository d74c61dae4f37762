#pragma once

#include <cstdint>
#include <cstring>

#if defined(SPECTRAIN_ISA_avx512)
#include <immintrin.h>
#endif

// The register tiles: c[M][cols] (+)= sum over k of a[k][.] x b[k][.], panels as gemm.h describes them.

namespace spectrain::SPECTRAIN_ISA {

// Floats in a vector register, rows of the tile. Two vectors of columns; rows so many that accumulators, the
// two vectors of B and a broadcast element of A fill the register file (32 registers with AVX-512, 16
// before).
#if defined(SPECTRAIN_ISA_avx512)
constexpr int kLanes = 16, kTileRows = 12;
#elif defined(SPECTRAIN_ISA_avx2)
constexpr int kLanes = 8, kTileRows = 6;
#else
constexpr int kLanes = 4, kTileRows = 6;
#endif
constexpr int kTileCols = 2 * kLanes;
constexpr int kTileSize = kTileRows * kTileCols;

typedef float Lanes __attribute__((vector_size(4 * kLanes)));

inline Lanes load_lanes(const float* p) {
  Lanes v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline void store_lanes(float* p, Lanes v) { std::memcpy(p, &v, sizeof v); }

// M rows of a tile over float32 panels. add: continue from what c holds.
template <int M>
void tile_f32(const void* a_panel, const void* b_panel, std::int64_t steps, float* c, bool add) {
  const float* a = static_cast<const float*>(a_panel);
  const float* b = static_cast<const float*>(b_panel);
  Lanes sum[M][2];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    sum[i][0] = add ? load_lanes(c + i * kTileCols) : Lanes{};
    sum[i][1] = add ? load_lanes(c + i * kTileCols + kLanes) : Lanes{};
  }
  for (std::int64_t k = 0; k < steps; ++k, a += kTileRows, b += kTileCols) {
    const Lanes b0 = load_lanes(b), b1 = load_lanes(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const Lanes x = a[i] - Lanes{};  // the same number in every lane
      sum[i][0] += x * b0;
      sum[i][1] += x * b1;
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    store_lanes(c + i * kTileCols, sum[i][0]);
    store_lanes(c + i * kTileCols + kLanes, sum[i][1]);
  }
}

#if defined(SPECTRAIN_ISA_avx512)
// The same over panels of bf16 pairs: one instruction multiplies two neighbours in k and adds both.
template <int M>
__attribute__((target("avx512bf16"))) void tile_pairs(const void* a_panel, const void* b_panel,
                                                      std::int64_t steps, float* c, bool add) {
  const std::int32_t* a = static_cast<const std::int32_t*>(a_panel);
  const std::int32_t* b = static_cast<const std::int32_t*>(b_panel);
  __m512 sum[M][2];
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    sum[i][0] = add ? _mm512_loadu_ps(c + i * kTileCols) : _mm512_setzero_ps();
    sum[i][1] = add ? _mm512_loadu_ps(c + i * kTileCols + kLanes) : _mm512_setzero_ps();
  }
  for (std::int64_t k = 0; k < steps; ++k, a += kTileRows, b += kTileCols) {
    const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < M; ++i) {
      const __m512bh x = (__m512bh)_mm512_set1_epi32(a[i]);
      sum[i][0] = _mm512_dpbf16_ps(sum[i][0], x, b0);
      sum[i][1] = _mm512_dpbf16_ps(sum[i][1], x, b1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    _mm512_storeu_ps(c + i * kTileCols, sum[i][0]);
    _mm512_storeu_ps(c + i * kTileCols + kLanes, sum[i][1]);
  }
}
#endif

}  // namespace spectrain::SPECTRAIN_ISA
