#include "kernels/cpu/isa/attention.h"

#include <math.h>

#include "kernels/cpu/isa/tile.h"

// Blocked causal attention with an online softmax (Dao, Fu, Ermon, Rudra, Re, "FlashAttention", 2022; the
// order of the loops after Dao, "FlashAttention-2", 2023). Tiles are widened to float once when they are
// fetched; all arithmetic is float.

namespace spectrain::SPECTRAIN_ISA {
namespace {

constexpr std::int64_t B = kAttentionBlock;
constexpr float kMasked = -1e30f;  // finite, so that a difference of two of them is no NaN

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Where one head's part of a packed tensor lies.
template <class S>
struct View {
  S* first;             // element 0 of the head in row 0 of the batch entry
  std::int64_t stride;  // elements from one row to the next
};

struct Sizes {
  std::int64_t D, dim, padded, blocks, group;
  explicit Sizes(const AttentionArgs& a)
      : D(a.head_dim),
        dim((a.head_dim + 15) / 16 * 16),
        padded((a.context + B - 1) / B * B),
        blocks((a.context + B - 1) / B),
        group(a.heads / a.kv_heads) {}
};

// Which keys the queries of a block see; first_key never decreases along a sequence.
struct Seen {
  const std::int32_t* first_key;  // of this batch entry, or null: 0 for all
  Seen(const AttentionArgs& a, std::int64_t batch)
      : first_key(a.first_key ? a.first_key + batch * a.context : nullptr) {}
  std::int64_t first(std::int64_t row) const { return first_key ? first_key[row] : 0; }
  // The first block of keys that some query of block i sees.
  std::int64_t first_block(std::int64_t i) const { return first(i * B) / B; }
  // Whether some query of block i does not see the whole beginning of block j of keys.
  bool cuts(const AttentionArgs& a, std::int64_t i, std::int64_t j) const {
    const std::int64_t last = (i + 1) * B < a.context ? (i + 1) * B : a.context;
    return first(last - 1) > j * B;
  }
  // Whether it is of use to look at rows `row` on for keys up to the end of block j.
  bool sees(std::int64_t i, std::int64_t j) const { return first(i * B) < (j + 1) * B; }
};

// Columns [begin, end) of row r of the tile of queries i and keys j are seen.
struct Columns {
  std::int64_t begin, end;
};
template <bool diagonal>
Columns columns(const Seen& seen, bool cut, std::int64_t context, std::int64_t i, std::int64_t j,
                std::int64_t r) {
  const std::int64_t end = diagonal ? r + 1 : B, row = i * B + r;
  if (!cut || row >= context) return {0, end};
  const std::int64_t begin = seen.first(row) - j * B;
  return {begin < 0 ? 0 : begin < end ? begin : end, end};
}

// Head h of the packed rows of one batch entry: q heads first, then k heads, then v heads.
template <class S, class Pointer>
View<S> packed_head(const AttentionArgs& a, Pointer data, std::int64_t batch, std::int64_t h) {
  const std::int64_t stride = (a.heads + 2 * a.kv_heads) * a.head_dim;
  return {static_cast<S*>(data) + batch * a.context * stride + h * a.head_dim, stride};
}
template <class S, class Pointer>
View<S> out_head(const AttentionArgs& a, Pointer data, std::int64_t batch, std::int64_t h) {
  const std::int64_t stride = a.heads * a.head_dim;
  return {static_cast<S*>(data) + batch * a.context * stride + h * a.head_dim, stride};
}

// A tile [64][dim] of rows from `row` on, times factor; what the tensor does not have is zero.
template <class S>
void fetch(View<const S> from, std::int64_t row, std::int64_t rows, const Sizes& s, float factor,
           float* __restrict tile) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const S* __restrict x = from.first + (row + r) * from.stride;
    float* __restrict y = tile + r * s.dim;
    for (std::int64_t i = 0; i < s.D; ++i) y[i] = load(x + i) * factor;
    for (std::int64_t i = s.D; i < s.dim; ++i) y[i] = 0;
  }
  for (std::int64_t i = rows * s.dim; i < B * s.dim; ++i) tile[i] = 0;
}

template <class S>
void put(View<S> to, std::int64_t row, std::int64_t rows, const Sizes& s, const float* __restrict tile) {
  for (std::int64_t r = 0; r < rows; ++r) {
    S* __restrict y = to.first + (row + r) * to.stride;
    const float* __restrict x = tile + r * s.dim;
    for (std::int64_t i = 0; i < s.D; ++i) store(y + i, x[i]);
  }
}

// One row of scores becomes weights exp(score - largest); returns the sum of the weights. Columns that are
// not seen get weight zero.
inline float weights(float* __restrict s, Columns seen, float& largest) {
  if (seen.begin >= seen.end) {
    for (std::int64_t c = 0; c < B; ++c) s[c] = 0;
    return 0;
  }
  for (std::int64_t c = 0; c < seen.begin; ++c) s[c] = kMasked;
  for (std::int64_t c = seen.end; c < B; ++c) s[c] = kMasked;
  float top = largest;
#pragma omp simd reduction(max : top)
  for (std::int64_t c = 0; c < B; ++c) top = s[c] > top ? s[c] : top;
  largest = top;
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t c = 0; c < B; ++c) {
    s[c] = exp_weight(s[c] - top);
    sum += s[c];
  }
  return sum;
}

// What a block of queries carries from one block of keys to the next.
struct Queries {
  float *q, *out, *top,
      *sum;  // scaled queries, weighted values, largest score and sum of weights of each row
  Queries(const Sizes& s, float* scratch)
      : q(scratch), out(q + B * s.dim), top(out + B * s.dim), sum(top + B) {}
  static std::int64_t floats(const Sizes& s) { return 2 * B * s.dim + 2 * B; }
};

// One tile of scores: weights of block j of keys for one block of queries, and their values added.
template <bool diagonal>
void attend(const AttentionArgs& a, const Sizes& s, const Seen& seen, std::int64_t i, std::int64_t j,
            const float* kt, const float* v, float* p, const Queries& to) {
  const std::int64_t rows = least(B, a.context - i * B), count = least(B, a.context - j * B);
  const bool first = j == seen.first_block(i), cut = seen.cuts(a, i, j);
  const std::int64_t M = (rows + 7) / 8 * 8;
  tile_product<false, diagonal ? Part::n_to_row : Part::all>(M, B, s.D, to.q, s.dim, kt, B, p, B, false);
  for (std::int64_t r = 0; r < M; ++r) {
    const float before = to.top[r];
    const float added = weights(p + r * B, columns<diagonal>(seen, cut, a.context, i, j, r), to.top[r]);
    const float keep = first ? 0.0f : exp_weight(before - to.top[r]);
    to.sum[r] = to.sum[r] * keep + added;
    if (!first && keep != 1.0f) {
      float* __restrict o = to.out + r * s.dim;
      for (std::int64_t d = 0; d < s.dim; ++d) o[d] *= keep;
    }
  }
  tile_product<false, diagonal ? Part::k_to_row : Part::all>(M, s.dim, count, p, B, v, s.dim, to.out, s.dim,
                                                             !first);
}

template <class S>
void finish(const AttentionArgs& a, const Sizes& s, std::int64_t batch, std::int64_t head, std::int64_t block,
            const Queries& from) {
  const std::int64_t row = block * B, rows = least(B, a.context - row);
  for (std::int64_t r = 0; r < rows; ++r) {
    float* __restrict o = from.out + r * s.dim;
    const float inverse = 1.0f / from.sum[r];
    for (std::int64_t i = 0; i < s.dim; ++i) o[i] *= inverse;
    if (a.lse) a.lse[(batch * a.heads + head) * a.context + row + r] = from.top[r] + logf(from.sum[r]);
  }
  put(out_head<S>(a, a.out, batch, head), row, rows, s, from.out);
}

template <class S>
void forward(const AttentionArgs& a, std::int64_t batch, std::int64_t head, std::int64_t first,
             std::int64_t last, float* scratch) {
  const Sizes s(a);
  const std::int64_t tile = B * s.dim, kv = head / s.group;
  float *v = scratch, *kt = v + tile, *p = kt + tile, *states = p + B * B;
  for (std::int64_t i = first; i < last; ++i) {
    const Queries to(s, states + (i - first) * Queries::floats(s));
    fetch(packed_head<const S>(a, a.qkv, batch, head), i * B, least(B, a.context - i * B), s, a.scale, to.q);
    for (std::int64_t r = 0; r < B; ++r) to.top[r] = kMasked, to.sum[r] = 0;
  }
  const auto keys = packed_head<const S>(a, a.qkv, batch, a.heads + kv);
  const auto values = packed_head<const S>(a, a.qkv, batch, a.heads + a.kv_heads + kv);
  const Seen seen(a, batch);
  for (std::int64_t j = seen.first_block(first); j < last; ++j) {
    const std::int64_t count = least(B, a.context - j * B);
    fetch(keys, j * B, count, s, 1.0f, v);  // the place of v is free until the keys are transposed
    tile_transpose(B, s.dim, v, s.dim, kt, B);
    fetch(values, j * B, count, s, 1.0f, v);
    for (std::int64_t i = j > first ? j : first; i < last; ++i) {
      if (!seen.sees(i, j)) break;  // nor does any later block
      const Queries to(s, states + (i - first) * Queries::floats(s));
      if (i == j)
        attend<true>(a, s, seen, i, j, kt, v, p, to);
      else
        attend<false>(a, s, seen, i, j, kt, v, p, to);
    }
  }
  for (std::int64_t i = first; i < last; ++i)
    finish<S>(a, s, batch, head, i, Queries(s, states + (i - first) * Queries::floats(s)));
}

template <class S>
void delta(const AttentionArgs& a, std::int64_t begin, std::int64_t end) {
  for (std::int64_t row = begin; row < end; ++row)
    for (std::int64_t h = 0; h < a.heads; ++h) {
      const S* x = static_cast<const S*>(a.dout) + (row * a.heads + h) * a.head_dim;
      const S* y = static_cast<const S*>(a.out) + (row * a.heads + h) * a.head_dim;
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = 0; i < a.head_dim; ++i) sum += load(x + i) * load(y + i);
      a.delta[(row / a.context * a.heads + h) * a.context + row % a.context] = sum;
    }
}

// The tiles of one task of the backward pass.
struct Tiles {
  float *q, *dout, *k, *kt, *vt, *dk, *dv, *dq, *p, *ds;
  Tiles(const Sizes& s, float* scratch) {
    const std::int64_t tile = B * s.dim;
    q = scratch;
    dout = q + tile;
    k = dout + tile;
    kt = k + tile;
    vt = kt + tile;
    dk = vt + tile;
    dv = dk + tile;
    p = dv + tile;
    ds = p + B * B;
    dq = ds + B * B;  // last: the whole context where all is done in one task
  }
};

// k, kt, vt of one block of keys.
template <class S>
void fetch_keys(const AttentionArgs& a, const Sizes& s, std::int64_t batch, std::int64_t kv, std::int64_t j,
                const Tiles& t) {
  const std::int64_t key = j * B, count = least(B, a.context - key);
  fetch(packed_head<const S>(a, a.qkv, batch, a.heads + a.kv_heads + kv), key, count, s, 1.0f, t.k);
  tile_transpose(B, s.dim, t.k, s.dim, t.vt, B);
  fetch(packed_head<const S>(a, a.qkv, batch, a.heads + kv), key, count, s, 1.0f, t.k);
  tile_transpose(B, s.dim, t.k, s.dim, t.kt, B);
}

template <class S>
void fetch_queries(const AttentionArgs& a, const Sizes& s, std::int64_t batch, std::int64_t head,
                   std::int64_t i, const Tiles& t) {
  const std::int64_t row = i * B, rows = least(B, a.context - row);
  fetch(packed_head<const S>(a, a.qkv, batch, head), row, rows, s, 1.0f, t.q);
  fetch(out_head<const S>(a, a.dout, batch, head), row, rows, s, 1.0f, t.dout);
}

// p = exp(scale q.k - lse), ds = scale p (dout.v - delta) of one tile of scores. Rows the context does not
// have become zero, so they add nothing to dk and dv.
template <bool diagonal>
void probabilities(const AttentionArgs& a, const Sizes& s, std::int64_t batch, std::int64_t head,
                   std::int64_t i, std::int64_t j, const Tiles& t) {
  constexpr Part part = diagonal ? Part::n_to_row : Part::all;
  const Seen seen(a, batch);
  const bool cut = seen.cuts(a, i, j);
  const std::int64_t row = i * B, rows = least(B, a.context - row), M = (rows + 7) / 8 * 8;
  tile_product<false, part>(M, B, s.D, t.q, s.dim, t.kt, B, t.p, B, false);
  tile_product<false, part>(M, B, s.D, t.dout, s.dim, t.vt, B, t.ds, B, false);
  const float* lse = a.lse + (batch * a.heads + head) * a.context + row;
  const float* shift = a.delta + (batch * a.heads + head) * a.context + row;
  for (std::int64_t r = 0; r < M; ++r) {
    float* __restrict p = t.p + r * B;
    float* __restrict ds = t.ds + r * B;
    const Columns some = r >= rows ? Columns{0, 0} : columns<diagonal>(seen, cut, a.context, i, j, r);
    if (some.end > some.begin) {
      const float l = lse[r], d = shift[r], scale = a.scale;
      for (std::int64_t c = 0; c < B; ++c) {
        p[c] = exp_weight(scale * p[c] - l);
        ds[c] = scale * p[c] * (ds[c] - d);
      }
    }
    for (std::int64_t c = 0; c < some.begin; ++c) p[c] = 0, ds[c] = 0;
    for (std::int64_t c = some.end; c < B; ++c) p[c] = 0, ds[c] = 0;
  }
}

template <bool diagonal>
void add_to_keys(const AttentionArgs& a, const Sizes& s, std::int64_t i, const Tiles& t, bool accumulate) {
  constexpr Part part = diagonal ? Part::k_from_row : Part::all;
  const std::int64_t rows = least(B, a.context - i * B);
  tile_product<true, part>(B, s.dim, rows, t.p, B, t.dout, s.dim, t.dv, s.dim, accumulate);
  tile_product<true, part>(B, s.dim, rows, t.ds, B, t.q, s.dim, t.dk, s.dim, accumulate);
}

template <bool diagonal>
void add_to_queries(const AttentionArgs& a, const Sizes& s, std::int64_t i, std::int64_t j, const Tiles& t,
                    float* dq, bool accumulate) {
  constexpr Part part = diagonal ? Part::k_to_row : Part::all;
  const std::int64_t rows = least(B, a.context - i * B), count = least(B, a.context - j * B);
  tile_product<false, part>((rows + 7) / 8 * 8, s.dim, count, t.ds, B, t.k, s.dim, dq, s.dim, accumulate);
}

template <class S>
void put_keys(const AttentionArgs& a, const Sizes& s, std::int64_t batch, std::int64_t kv, std::int64_t j,
              const Tiles& t) {
  const std::int64_t key = j * B, count = least(B, a.context - key);
  put(packed_head<S>(a, a.dqkv, batch, a.heads + kv), key, count, s, t.dk);
  put(packed_head<S>(a, a.dqkv, batch, a.heads + a.kv_heads + kv), key, count, s, t.dv);
}

// One block of keys against every query that sees it; `dq`, if there, collects the other factor's gradient.
template <class S>
void one_key_block(const AttentionArgs& a, const Sizes& s, std::int64_t batch, std::int64_t kv,
                   std::int64_t j, const Tiles& t, float* dq) {
  fetch_keys<S>(a, s, batch, kv, j, t);
  const Seen seen(a, batch);
  for (std::int64_t g = 0; g < s.group; ++g) {
    const std::int64_t head = kv * s.group + g;
    for (std::int64_t i = j; i < s.blocks && seen.sees(i, j); ++i) {
      const bool accumulate = j > seen.first_block(i);
      float* dq_block = dq ? dq + (g * s.padded + i * B) * s.dim : nullptr;
      fetch_queries<S>(a, s, batch, head, i, t);
      if (i == j) {
        probabilities<true>(a, s, batch, head, i, j, t);
        add_to_keys<true>(a, s, i, t, g > 0);
        if (dq) add_to_queries<true>(a, s, i, j, t, dq_block, accumulate);
      } else {
        probabilities<false>(a, s, batch, head, i, j, t);
        add_to_keys<false>(a, s, i, t, true);
        if (dq) add_to_queries<false>(a, s, i, j, t, dq_block, accumulate);
      }
    }
  }
  put_keys<S>(a, s, batch, kv, j, t);
}

template <class S>
void backward_all(const AttentionArgs& a, std::int64_t batch, std::int64_t kv, float* scratch) {
  const Sizes s(a);
  const Tiles t(s, scratch);
  for (std::int64_t j = 0; j < s.blocks; ++j) one_key_block<S>(a, s, batch, kv, j, t, t.dq);
  for (std::int64_t g = 0; g < s.group; ++g)
    put(packed_head<S>(a, a.dqkv, batch, kv * s.group + g), 0, a.context, s, t.dq + g * s.padded * s.dim);
}

template <class S>
void backward_keys(const AttentionArgs& a, std::int64_t batch, std::int64_t kv, std::int64_t j,
                   float* scratch) {
  const Sizes s(a);
  one_key_block<S>(a, s, batch, kv, j, Tiles(s, scratch), nullptr);
}

template <class S>
void backward_queries(const AttentionArgs& a, std::int64_t batch, std::int64_t head, std::int64_t i,
                      float* scratch) {
  const Sizes s(a);
  const Tiles t(s, scratch);
  fetch_queries<S>(a, s, batch, head, i, t);
  const std::int64_t first = Seen(a, batch).first_block(i);
  for (std::int64_t j = first; j <= i; ++j) {
    fetch_keys<S>(a, s, batch, head / s.group, j, t);
    if (i == j) {
      probabilities<true>(a, s, batch, head, i, j, t);
      add_to_queries<true>(a, s, i, j, t, t.dq, j > first);
    } else {
      probabilities<false>(a, s, batch, head, i, j, t);
      add_to_queries<false>(a, s, i, j, t, t.dq, j > first);
    }
  }
  put(packed_head<S>(a, a.dqkv, batch, head), i * B, least(B, a.context - i * B), s, t.dq);
}

}  // namespace

using u16 = std::uint16_t;
const AttentionTable attention_table = {
    {forward<float>, forward<u16>},
    {delta<float>, delta<u16>},
    {backward_all<float>, backward_all<u16>},
    {backward_keys<float>, backward_keys<u16>},
    {backward_queries<float>, backward_queries<u16>},
};

}  // namespace spectrain::SPECTRAIN_ISA
