#include "kernels/cpu/isa/cross_entropy.h"

#include <math.h>

#include "kernels/cpu/isa/tile.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

// Each form of the cap as its value and its slope at a logit z, branch-free. The slopes come from z and not
// from the value: near the cap 1 - (value / cap)^2 has no digits left.
struct NoCap {
  explicit NoCap(const CrossEntropyArgs&) {}
  float value(float z) const { return z; }
  float slope(float) const { return 1.0f; }
};

struct TanhCap {
  float cap, twice_inverse;
  explicit TanhCap(const CrossEntropyArgs& a) : cap(a.cap), twice_inverse(2.0f / a.cap) {}
  float value(float z) const {
    const float e = exp_weight(-__builtin_fabsf(z * twice_inverse));
    return __builtin_copysignf(cap * (1.0f - e) / (1.0f + e), z);
  }
  float slope(float z) const {
    const float e = exp_weight(-__builtin_fabsf(z * twice_inverse)), d = 1.0f + e;
    return 4.0f * e / (d * d);
  }
};

struct SigmoidCap {
  float cap, inverse, offset, steepness;
  explicit SigmoidCap(const CrossEntropyArgs& a)
      : cap(a.cap), inverse(1.0f / a.divisor), offset(a.offset), steepness(a.cap / a.divisor) {}
  float value(float z) const {
    const float x = (z + offset) * inverse, e = exp_weight(-__builtin_fabsf(x));
    return cap * (x < 0 ? e : 1.0f) / (1.0f + e);
  }
  float slope(float z) const {
    const float e = exp_weight(-__builtin_fabsf((z + offset) * inverse)), d = 1.0f + e;
    return steepness * e / (d * d);
  }
};

struct RationalCap {
  float cap, inverse;
  explicit RationalCap(const CrossEntropyArgs& a) : cap(a.cap), inverse(1.0f / a.cap) {}
  // Beyond 1e9 caps the value is the cap to the last bit; the square would overflow later. NaN passes.
  float ratio(float z) const {
    const float u = z * inverse;
    return u > 1e9f ? 1e9f : (u < -1e9f ? -1e9f : u);
  }
  float value(float z) const {
    const float u = ratio(z);
    return cap * u / __builtin_sqrtf(1.0f + u * u);
  }
  float slope(float z) const {
    const float u = ratio(z), r = 1.0f / __builtin_sqrtf(1.0f + u * u);
    return r * r * r;
  }
};

// The capped logits of a row in pieces that stay in the first-level cache: each is read from memory once,
// for its maximum, and once more from the cache, for its sum.
constexpr std::int64_t kPiece = 2048;

// The weights exp(value - largest) of a row, summed over all but the target: where the model is nearly
// certain, the others are all that loss and gradient are made of, and next to a one they would drop out of a
// float.
struct Weights {
  float largest = -3.4028235e38f;  // finite: -inf logits then have weight zero instead of NaN
  double others = 0;
};

// Largest element and sum of whole vectors, four chains at a time. Written out, because the compiler gives up
// on such a reduction as soon as its length is not a constant.
float largest_of(const float* x, std::int64_t n, float start) {
  Vec top[4];
  for (Vec& t : top) t = start - Vec{};
  for (std::int64_t i = 0; i < n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const Vec v = load_vec(x + i + k * kLanes);
      top[k] = v > top[k] ? v : top[k];
    }
  for (const Vec& t : top)
    for (int k = 0; k < kLanes; ++k) start = t[k] > start ? t[k] : start;
  return start;
}
double sum_of(const float* x, std::int64_t n) {
  Vec sum[4] = {};
  for (std::int64_t i = 0; i < n; i += 4 * kLanes)
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) sum[k] += load_vec(x + i + k * kLanes);
  const Vec all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  double total = 0;
  for (int k = 0; k < kLanes; ++k) total += static_cast<double>(all[k]);
  return total;
}

template <class Cap>
Weights weights(const Cap& cap, const float* __restrict z, std::int64_t n, std::int64_t target) {
  Weights result;
  alignas(64) float piece[kPiece];
  for (std::int64_t first = 0; first < n; first += kPiece) {
    const std::int64_t count = n - first < kPiece ? n - first : kPiece;
    const std::int64_t whole = (count + 4 * kLanes - 1) / (4 * kLanes) * (4 * kLanes);
    for (std::int64_t i = 0; i < count; ++i) piece[i] = cap.value(z[first + i]);
    for (std::int64_t i = count; i < whole; ++i) piece[i] = -__builtin_inff();
    const float top = largest_of(piece, whole, result.largest);
    if (top > result.largest) {
      result.others *= exp(static_cast<double>(result.largest) - static_cast<double>(top));
      result.largest = top;
    }
    if (target >= first && target < first + count) piece[target - first] = -__builtin_inff();
    for (std::int64_t i = 0; i < whole; ++i) piece[i] = exp_weight(piece[i] - top);
    result.others += sum_of(piece, whole);
  }
  return result;
}

template <class Cap, class S>
void gradient(const Cap& cap, const float* z, std::int64_t n, float largest, float factor, S* d) {
  // dlogits may be the logits: element i is read before it is written, and no other is touched.
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    const float x = z[i];
    store(d + i, factor * exp_weight(cap.value(x) - largest) * cap.slope(x));
  }
}

template <class S>
void zero(S* d, std::int64_t from, std::int64_t to) {
  for (std::int64_t i = from; i < to; ++i) store(d + i, 0.0f);
}

template <class Cap, class S>
void rows(const CrossEntropyArgs& a, std::int64_t begin, std::int64_t end) {
  const Cap cap(a);
  for (std::int64_t r = begin; r < end; ++r) {
    const float* z = a.logits + r * a.columns;
    S* d = a.dlogits ? static_cast<S*>(a.dlogits) + r * a.columns : nullptr;
    const std::int64_t target = a.targets[r];
    if (target < 0) {
      a.losses[r] = 0;
      if (d) zero(d, 0, a.columns);
      continue;
    }
    const Weights w = weights(cap, z, a.vocab, target);
    const float at_target = z[target];
    const double below = static_cast<double>(w.largest) - static_cast<double>(cap.value(at_target));
    const double own = exp(-below), total = w.others + own;
    a.losses[r] = static_cast<float>(own > w.others ? log1p(w.others / own) : below + log(total));
    if (!d) continue;
    gradient(cap, z, a.vocab, w.largest, static_cast<float>(a.gradient_scale / total), d);
    store(d + target, -a.gradient_scale * static_cast<float>(w.others / total) * cap.slope(at_target));
    zero(d, a.vocab, a.columns);
  }
}

}  // namespace

using u16 = std::uint16_t;
const CrossEntropyTable cross_entropy_table = {{
    {rows<NoCap, float>, rows<NoCap, u16>},
    {rows<TanhCap, float>, rows<TanhCap, u16>},
    {rows<SigmoidCap, float>, rows<SigmoidCap, u16>},
    {rows<RationalCap, float>, rows<RationalCap, u16>},
}};

}  // namespace spectrain::SPECTRAIN_ISA
