#include "kernels/cpu/isa/qk_transform.h"

#include "kernels/cpu/isa/vector_formulas.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

// (x1, x2) -> (x1 c - x2 s', x1 s' + x2 c) with s' = turn * sin; turn is the sign of the forward rotation,
// its negative for the way back (rotations are orthogonal). Scales by factor on the way.
template <class S>
void rotate(const QkTransformArgs& a, std::int64_t t, float turn, float factor, const float* __restrict x,
            S* __restrict y) {
  const std::int64_t half = a.head_dim / 2;
  const float* __restrict cosine = a.cos + t * half;
  const float* __restrict sine = a.sin + t * half;
  if (a.interleaved) {
    for (std::int64_t i = 0; i < half; ++i) {
      const float c = factor * cosine[i], s = factor * turn * sine[i];
      float first = x[2 * i], second = x[2 * i + 1];
      rotate_pair<VectorMath>(first, second, c, s);
      store(y + 2 * i, first);
      store(y + 2 * i + 1, second);
    }
  } else {
    for (std::int64_t i = 0; i < half; ++i) {
      const float c = factor * cosine[i], s = factor * turn * sine[i];
      float first = x[i], second = x[i + half];
      rotate_pair<VectorMath>(first, second, c, s);
      store(y + i, first);
      store(y + i + half, second);
    }
  }
}

// The last step of both directions: rotate where there is a table, scale, and write.
template <class S>
void finish(const QkTransformArgs& a, std::int64_t t, float turn, float factor, const float* __restrict x,
            S* __restrict y) {
  if (a.cos) {
    rotate(a, t, turn, factor, x, y);
  } else {
    for (std::int64_t i = 0; i < a.head_dim; ++i) store(y + i, factor * x[i]);
  }
}

template <class S>
void copy_values(const QkTransformArgs& a, const S* in, S* out) {
  if (in == out) return;
  const std::int64_t first = (a.heads + a.kv_heads) * a.head_dim, count = a.kv_heads * a.head_dim;
  memcpy(out + first, in + first, static_cast<std::size_t>(count) * sizeof(S));
}

template <class S>
void forward(const QkTransformArgs& a, std::int64_t begin, std::int64_t end) {
  alignas(64) float x[kLargestHead];
  const std::int64_t D = a.head_dim, heads = a.heads + a.kv_heads, packed = (heads + a.kv_heads) * D;
  for (std::int64_t row = begin; row < end; ++row) {
    const S* in = static_cast<const S*>(a.in) + row * packed;
    S* out = static_cast<S*>(a.out) + row * packed;
    for (std::int64_t h = 0; h < heads; ++h) {
      float squares = 0;
#pragma omp simd reduction(+ : squares)
      for (std::int64_t i = 0; i < D; ++i) {
        x[i] = load(in + h * D + i);
        squares += x[i] * x[i];
      }
      float factor = 1;
      if (a.norm) {
        factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(D) + a.eps);
        a.rstd[row * heads + h] = factor;
      }
      finish(a, row % a.context, a.sign, factor, x, out + h * D);
    }
    copy_values(a, in, out);
  }
}

// With y the output (normalised, then rotated) and g its gradient: t = g - y mean(y g) is the rotated
// gradient behind the norm, because a rotation changes no inner product; dx = rstd * unrotate(t).
template <class S>
void backward(const QkTransformArgs& a, std::int64_t begin, std::int64_t end) {
  alignas(64) float x[kLargestHead];
  const std::int64_t D = a.head_dim, heads = a.heads + a.kv_heads, packed = (heads + a.kv_heads) * D;
  for (std::int64_t row = begin; row < end; ++row) {
    const S* g = static_cast<const S*>(a.in) + row * packed;
    const S* y = static_cast<const S*>(a.result) + row * packed;
    S* out = static_cast<S*>(a.out) + row * packed;
    for (std::int64_t h = 0; h < heads; ++h) {
      const S* gh = g + h * D;
      const S* yh = y + h * D;
      if (a.norm) {
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (std::int64_t i = 0; i < D; ++i) dot += load(gh + i) * load(yh + i);
        const float mean = dot / static_cast<float>(D);
        for (std::int64_t i = 0; i < D; ++i) x[i] = load(gh + i) - mean * load(yh + i);
        finish(a, row % a.context, -a.sign, a.rstd[row * heads + h], x, out + h * D);
      } else {
        for (std::int64_t i = 0; i < D; ++i) x[i] = load(gh + i);
        finish(a, row % a.context, -a.sign, 1.0f, x, out + h * D);
      }
    }
    copy_values(a, g, out);
  }
}

}  // namespace

using u16 = std::uint16_t;
const QkTransformTable qk_transform_table = {{forward<float>, forward<u16>},
                                             {backward<float>, backward<u16>}};

}  // namespace spectrain::SPECTRAIN_ISA
