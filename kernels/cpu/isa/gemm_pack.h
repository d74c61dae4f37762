#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cpu/isa/gemm.h"
#include "kernels/cpu/isa/gemm_tile.h"
#include "kernels/cpu/isa/vector_math.h"

// Packing: a slice of a matrix, in either orientation and dtype, into panels of float32 or of bf16 pairs.

namespace spectrain::SPECTRAIN_ISA {

inline std::uint32_t bf16_bits(float x) {
  std::uint16_t h;
  store(&h, x);
  return h;
}
inline std::uint32_t bf16_bits(std::uint16_t x) { return x; }

// A float32 that is to count as rounded to bf16.
struct RoundedFloat {
  float value;
};
inline float load(const RoundedFloat* p) { return as_float(bf16_bits(p->value) << 16); }
inline std::uint32_t bf16_bits(RoundedFloat x) { return bf16_bits(x.value); }

inline void zero_words(std::uint32_t* out, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = 0;
}

// Words of 16 (or fewer) steps of k from one row whose k are neighbours in memory; the rest of out is zero.
// `left` is the number of elements of k there are from `row` on.
template <bool Pairs, class T>
inline void row_words(const T* row, std::int64_t left, std::uint32_t* out) {
  if constexpr (Pairs) {
    if (left >= 32) {
      std::uint16_t h[32];
      if constexpr (sizeof(T) == 2) {
        std::memcpy(h, row, sizeof h);
      } else {
        for (int j = 0; j < 32; ++j) h[j] = static_cast<std::uint16_t>(bf16_bits(row[j]));
      }
      std::memcpy(out, h, sizeof h);
      return;
    }
    zero_words(out, 16);
    for (std::int64_t k = 0; k < left; ++k) out[k / 2] |= bf16_bits(row[k]) << (16 * (k & 1));
  } else {
    if (left >= 16) {
      for (int j = 0; j < 16; ++j) out[j] = as_bits(load(row + j));
      return;
    }
    zero_words(out, 16);
    for (std::int64_t k = 0; k < left; ++k) out[k] = as_bits(load(row + k));
  }
}

#if defined(SPECTRAIN_ISA_avx512)
// Steps of a 16 x 16 transpose, named after what they take from each 128-bit quarter of a and b. (The
// intrinsics for these make g++ 12 warn of uninitialised values in its own headers.)
typedef std::uint32_t Words __attribute__((vector_size(64)));
inline Words load_words(const std::uint32_t* p) {
  Words v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Words unpack_low(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
}
inline Words unpack_high(Words a, Words b) {
  return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
}
inline Words pairs_low(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
}
inline Words pairs_high(Words a, Words b) {
  return __builtin_shufflevector(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
}
inline Words even_quads(Words a, Words b) {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
}
inline Words odd_quads(Words a, Words b) {
  return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
}
#endif

#if defined(SPECTRAIN_ISA_avx512)
inline Words rounded(Words x) {
  const Words carried = (x + 0x7fffu + ((x >> 16) & 1u)) >> 16;
  return (x & 0x7fffffffu) > 0x7f800000u ? (x >> 16) | 0x40u : carried;
}
// row_words() of a full row, in a register.
template <bool Pairs>
inline Words row_vector(const std::uint16_t* row) {
  if constexpr (Pairs) return load_words(reinterpret_cast<const std::uint32_t*>(row));
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row));
  return (Words)_mm512_maskz_cvtepu16_epi32(0xffff, half) << 16;
}
template <bool Pairs>
inline Words row_vector(const RoundedFloat* row) {
  const Words first = rounded(load_words(reinterpret_cast<const std::uint32_t*>(row)));
  if constexpr (!Pairs) return first << 16;
  const Words second = rounded(load_words(reinterpret_cast<const std::uint32_t*>(row + 16)));
  const Words low =
      __builtin_shufflevector(first, second, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const Words high =
      __builtin_shufflevector(first, second, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return low | high << 16;
}
template <bool Pairs>
inline Words row_vector(const float* row) {
  if constexpr (Pairs) return row_vector<true>(reinterpret_cast<const RoundedFloat*>(row));
  return load_words(reinterpret_cast<const std::uint32_t*>(row));
}

// out[s * W + r] = in[r][s] for r < R (R <= 16), s < steps (<= 16).
template <int W, int R>
inline void transpose_words(const Words (&in)[16], int steps, std::uint32_t* out) {
  Words u[4][4];  // u[g][c]: lane l holds column 4 l + c of rows 4 g .. 4 g + 3
#pragma GCC unroll 4
  for (int g = 0; g < 4; ++g) {
    const Words low01 = unpack_low(in[4 * g], in[4 * g + 1]), high01 = unpack_high(in[4 * g], in[4 * g + 1]);
    const Words low23 = unpack_low(in[4 * g + 2], in[4 * g + 3]);
    const Words high23 = unpack_high(in[4 * g + 2], in[4 * g + 3]);
    u[g][0] = pairs_low(low01, low23);
    u[g][1] = pairs_high(low01, low23);
    u[g][2] = pairs_low(high01, high23);
    u[g][3] = pairs_high(high01, high23);
  }
  Words column[16];
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const Words even01 = even_quads(u[0][c], u[1][c]), odd01 = odd_quads(u[0][c], u[1][c]);
    const Words even23 = even_quads(u[2][c], u[3][c]), odd23 = odd_quads(u[2][c], u[3][c]);
    column[c] = even_quads(even01, even23);
    column[4 + c] = even_quads(odd01, odd23);
    column[8 + c] = odd_quads(even01, even23);
    column[12 + c] = odd_quads(odd01, odd23);
  }
  constexpr __mmask16 kKeep = static_cast<__mmask16>((1u << R) - 1);
  if (steps == 16) {
    // Whole stores in ascending order: where a panel is narrower than a register, the next one overwrites the
    // excess.
#pragma GCC unroll 16
    for (int s = 0; s < 15; ++s) std::memcpy(out + s * W, &column[s], W < 16 ? 64 : 4 * R);
    _mm512_mask_storeu_epi32(out + 15 * W, kKeep, (__m512i)column[15]);
  } else {
    for (int s = 0; s < steps; ++s) std::memcpy(out + s * W, &column[s], 4 * R);
  }
}
#else
template <int W, int R>
inline void transpose_words(const std::uint32_t (&in)[16][16], int steps, std::uint32_t* out) {
  for (int s = 0; s < steps; ++s)
    for (int r = 0; r < R; ++r) out[s * W + r] = in[r][s];
}
#endif

// One panel, k neighbours in memory: rows [i, i + count), elements [k0, k1) of k.
template <int W, bool Pairs, class T>
void pack_k_columns(const T* data, std::int64_t ld, std::int64_t i, std::int64_t count, std::int64_t k0,
                    std::int64_t k1, std::uint32_t* out) {
  constexpr int kStep = Pairs ? 2 : 1;
  constexpr int kGroup = W < 16 ? W : 16;
  static_assert(W % kGroup == 0);
  const std::int64_t steps = (k1 - k0 + kStep - 1) / kStep;
  std::uint32_t stage[16][16] = {};
  for (int g = 0; g < W; g += kGroup) {
    const std::int64_t rows = count - g < 0 ? 0 : (count - g > kGroup ? kGroup : count - g);
    for (std::int64_t r = rows; r < kGroup; ++r) zero_words(stage[r], 16);
    for (std::int64_t s = 0; s < steps; s += 16) {
      const T* first = data + (i + g) * ld + k0 + s * kStep;
      const std::int64_t left = k1 - k0 - s * kStep;
      const int now = static_cast<int>(steps - s < 16 ? steps - s : 16);
#if defined(SPECTRAIN_ISA_avx512)
      Words in[16] = {};
      if (rows == kGroup && left >= 16 * kStep) {
#pragma GCC unroll 16
        for (int r = 0; r < kGroup; ++r) in[r] = row_vector<Pairs>(first + r * ld);
      } else {
        for (std::int64_t r = 0; r < rows; ++r) row_words<Pairs>(first + r * ld, left, stage[r]);
        for (int r = 0; r < kGroup; ++r) in[r] = load_words(stage[r]);
      }
      transpose_words<W, kGroup>(in, now, out + s * W + g);
#else
      for (std::int64_t r = 0; r < rows; ++r) row_words<Pairs>(first + r * ld, left, stage[r]);
      transpose_words<W, kGroup>(stage, now, out + s * W + g);
#endif
    }
  }
}

#if defined(SPECTRAIN_ISA_avx512)
// Up to 16 neighbours: the float32, or the bf16 in the low half.
template <bool Pairs>
inline Words masked_words(const std::uint16_t* x, __mmask16 keep) {
  const Words low = (Words)_mm512_maskz_cvtepu16_epi32(0xffff, _mm256_maskz_loadu_epi16(keep, x));
  return Pairs ? low : low << 16;
}
template <bool Pairs>
inline Words masked_words(const RoundedFloat* x, __mmask16 keep) {
  const Words low = rounded((Words)_mm512_maskz_loadu_epi32(keep, x));
  return Pairs ? low : low << 16;
}
template <bool Pairs>
inline Words masked_words(const float* x, __mmask16 keep) {
  if constexpr (Pairs) return masked_words<true>(reinterpret_cast<const RoundedFloat*>(x), keep);
  return (Words)_mm512_maskz_loadu_epi32(keep, x);
}
#endif

// One panel, the panel's rows neighbours in memory.
template <int W, bool Pairs, class T>
void pack_k_rows(const T* data, std::int64_t ld, std::int64_t i, std::int64_t count, std::int64_t k0,
                 std::int64_t k1, std::uint32_t* out) {
#if defined(SPECTRAIN_ISA_avx512)
  for (int g = 0; g < W; g += 16) {
    constexpr int kGroup = W < 16 ? W : 16;
    const std::int64_t rows = count - g < 0 ? 0 : (count - g > kGroup ? kGroup : count - g);
    const __mmask16 keep = static_cast<__mmask16>((1u << rows) - 1),
                    width = static_cast<__mmask16>((1u << kGroup) - 1);
    const T* x = data + k0 * ld + i + g;
    std::uint32_t* to = out + g;
    for (std::int64_t k = k0; k < k1; k += Pairs ? 2 : 1, to += W, x += Pairs ? 2 * ld : ld) {
      Words words = masked_words<Pairs>(x, keep);
      if constexpr (Pairs) {
        if (k + 1 < k1) words |= masked_words<true>(x + ld, keep) << 16;
      }
      _mm512_mask_storeu_epi32(to, width, (__m512i)words);
    }
  }
#else
  for (std::int64_t k = k0; k < k1; k += Pairs ? 2 : 1, out += W) {
    const T* x = data + k * ld + i;
    const T* next = x + (k + 1 < k1 ? ld : 0);
    const std::uint32_t second = k + 1 < k1 ? 0xffffffffu : 0;
    for (std::int64_t j = 0; j < count; ++j) {
      if constexpr (Pairs)
        out[j] = bf16_bits(x[j]) | (bf16_bits(next[j]) << 16 & second);
      else
        out[j] = as_bits(load(x + j));
    }
    zero_words(out + count, W - count);
  }
#endif
}

template <int W, bool Pairs, class T>
inline void pack_panel_of(const T* data, const GemmSource& s, std::int64_t i, std::int64_t count,
                          std::int64_t k0, std::int64_t k1, std::uint32_t* out) {
  if (s.k_rows)
    pack_k_rows<W, Pairs>(data, s.ld, i, count, k0, k1, out);
  else
    pack_k_columns<W, Pairs>(data, s.ld, i, count, k0, k1, out);
}

// Rows [i, i + count) of the operand, count <= W, elements [k0, k1) of k, into one panel of width W.
template <int W, bool Pairs>
void pack_panel(const GemmSource& s, std::int64_t i, std::int64_t count, std::int64_t k0, std::int64_t k1,
                std::uint32_t* out) {
  if (s.bf16)
    pack_panel_of<W, Pairs>(static_cast<const std::uint16_t*>(s.data), s, i, count, k0, k1, out);
  else if (s.round)
    pack_panel_of<W, Pairs>(static_cast<const RoundedFloat*>(s.data), s, i, count, k0, k1, out);
  else
    pack_panel_of<W, Pairs>(static_cast<const float*>(s.data), s, i, count, k0, k1, out);
}

}  // namespace spectrain::SPECTRAIN_ISA
