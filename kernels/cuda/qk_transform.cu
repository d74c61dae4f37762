#include <string>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed.h"
#include "kernels/formulas.h"

// QK norm and rotation on packed qkv, in one pass. Floor: one reading and one writing of q and k (and of v
// where the result goes elsewhere); backward reads the output too when there is a norm. The tables and rstd
// are small and stay in the caches. A head is worked at by as few lanes as hold it in two packs of 16 bytes
// each, one from its first half and one from the second: so both elements of a pair are in one thread for
// either way of pairing, and a norm is a sum over 2 to 16 lanes. Heads of other sizes get a warp.
// Every head is by itself: the number of blocks changes no bit.

namespace spectrain {
namespace {

constexpr std::int64_t kLargestHead = 256;
constexpr int kPairs = kLargestHead / 2 / kWarp;  // of a head, for each lane of a warp
constexpr int kThreads = 256;
// Four times the blocks that fit at once (1024 threads by their registers): enough of them that all
// multiprocessors end together, and few enough that starting them costs nothing next to their rows.
constexpr int kTurns = 4;

struct Args {
  const void *in, *result;  // forward: what comes; backward: the gradient, and the forward pass's output
  void* out;
  const float *cos, *sin;  // null: no rotation
  float* rstd;
  std::int64_t rows;
  unsigned context;
  int heads, all_heads, head_dim;  // heads: of q and k; all_heads: with v's, where they are to be copied
  std::int64_t packed;
  float eps, turn;  // turn: the rotation's sign, the other one on the way back
  bool norm, interleaved;
};

// What every element of a head is multiplied by, and how much of the output is taken off before (backward).
// With y the output (normalised, then rotated) and g its gradient, g - y mean(y g) is the rotated gradient
// behind the norm, because a rotation changes no inner product; then it is turned back and scaled.
struct Factors {
  float scale = 1, off = 0;
};
template <bool kBackward>
__device__ inline Factors factors_of(const Args& p, float mean, float* rstd, bool writes) {
  Factors f;
  if constexpr (kBackward) {
    f.off = mean;
    f.scale = *rstd;
  } else {
    f.scale = 1.0f / sqrtf(mean + p.eps);
    if (writes) *rstd = f.scale;
  }
  return f;
}

// ---- heads that a power of two of lanes holds in two packs each

// Half a pack's pairs, or a whole one's, turned: a[k] with b[k] (halves), or neighbours (interleaved).
template <int P>
__device__ inline void rotate(const Args& p, unsigned t, int lane, float scale, float (&a)[P],
                              float (&b)[P]) {
  const int half = p.head_dim / 2;
  const float *cosine = p.cos + std::int64_t{t} * half, *sine = p.sin + std::int64_t{t} * half;
  const float turn = scale * p.turn;
  if (p.interleaved) {
    constexpr int H = P / 2;
    float c[H], s[H];
    load_floats(cosine + lane * H, c);
    load_floats(sine + lane * H, s);
#pragma unroll
    for (int k = 0; k < H; ++k) rotate_pair<FastMath>(a[2 * k], a[2 * k + 1], scale * c[k], turn * s[k]);
    load_floats(cosine + half / 2 + lane * H, c);
    load_floats(sine + half / 2 + lane * H, s);
#pragma unroll
    for (int k = 0; k < H; ++k) rotate_pair<FastMath>(b[2 * k], b[2 * k + 1], scale * c[k], turn * s[k]);
  } else {
    float c[P], s[P];
    load_floats(cosine + lane * P, c);
    load_floats(sine + lane * P, s);
#pragma unroll
    for (int k = 0; k < P; ++k) rotate_pair<FastMath>(a[k], b[k], scale * c[k], turn * s[k]);
  }
}

// The two packs of a head, as they are written: less what the norm's gradient takes off, turned and scaled.
template <class T, int P, bool kBackward>
__device__ inline void transform(const Args& p, unsigned t, int lane, const Factors& f,
                                 const Packed<T, P>& low_result, const Packed<T, P>& high_result,
                                 Packed<T, P>& low, Packed<T, P>& high) {
  float a[P], b[P];
#pragma unroll
  for (int k = 0; k < P; ++k) {
    a[k] = low.at(k);
    b[k] = high.at(k);
    if constexpr (kBackward) {
      a[k] -= f.off * low_result.at(k);
      b[k] -= f.off * high_result.at(k);
    }
  }
  if (p.cos) {
    rotate<P>(p, t, lane, f.scale, a, b);
  } else {
#pragma unroll
    for (int k = 0; k < P; ++k) {
      a[k] *= f.scale;
      b[k] *= f.scale;
    }
  }
  low.set(a);
  high.set(b);
}

// A block takes a row at a time, so that whose head a thread has and where it stands cost no long division.
template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads, 4) packed_heads_kernel(Args p) {
  constexpr int P = kPack<T>;
  using Element = Packed<T, P>;
  const int lanes = p.head_dim / (2 * P), items = p.all_heads * lanes, head_shift = __ffs(lanes) - 1;
  const int in_warp = static_cast<int>(threadIdx.x) % kWarp, lane = in_warp & (lanes - 1);
  unsigned t = blockIdx.x % p.context;
  const unsigned t_step = gridDim.x % p.context;
  for (std::int64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
    // Whole warps go on together, for the sums.
    for (int first = static_cast<int>(threadIdx.x) - in_warp; first < items;
         first += static_cast<int>(blockDim.x)) {
      const int item = first + in_warp, head = item >> head_shift;
      const bool there = item < items, transformed = head < p.heads;
      const std::int64_t low = row * p.packed + std::int64_t{head} * p.head_dim + lane * P,
                         high = low + p.head_dim / 2;
      Element low_pack{}, high_pack{}, low_result{}, high_result{};
      if (there) {
        low_pack = Element::load(static_cast<const T*>(p.in) + low);
        high_pack = Element::load(static_cast<const T*>(p.in) + high);
        if (kBackward && p.norm && transformed) {
          low_result = Element::load(static_cast<const T*>(p.result) + low);
          high_result = Element::load(static_cast<const T*>(p.result) + high);
        }
      }
      Factors f;
      if (p.norm) {
        float sum = 0;
#pragma unroll
        for (int k = 0; k < P; ++k) {
          const float a = low_pack.at(k), b = high_pack.at(k);
          sum += a * (kBackward ? low_result.at(k) : a);
          sum += b * (kBackward ? high_result.at(k) : b);
        }
        for (int k = lanes / 2; k > 0; k /= 2) sum += __shfl_xor_sync(kWholeWarp, sum, k);
        if (there && transformed)
          f = factors_of<kBackward>(p, sum / static_cast<float>(p.head_dim), p.rstd + row * p.heads + head,
                                    lane == 0);
      }
      if (!there) continue;
      if (transformed)
        transform<T, P, kBackward>(p, t, lane, f, low_result, high_result, low_pack, high_pack);
      low_pack.store(static_cast<T*>(p.out) + low);
      high_pack.store(static_cast<T*>(p.out) + high);
    }
    t += t_step;
    if (t >= p.context) t -= p.context;
  }
}

// ---- heads of any size: one warp each, element by element

template <class T, bool kBackward>
__global__ void __launch_bounds__(kThreads) any_head_kernel(Args p) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, half = p.head_dim / 2;
  const bool odd = p.head_dim % 2 != 0 && lane == 0;  // this lane has the last element of an odd head
  const std::int64_t warps = std::int64_t{gridDim.x} * (blockDim.x / kWarp), all = p.rows * p.all_heads;
  for (std::int64_t item = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / kWarp; item < all;
       item += warps) {
    const std::int64_t row = item / p.all_heads, head = item % p.all_heads;
    const std::int64_t begin = row * p.packed + head * p.head_dim, last = begin + p.head_dim - 1;
    const T *in = static_cast<const T*>(p.in), *result = static_cast<const T*>(p.result);
    T* out = static_cast<T*>(p.out);
    const bool transformed = head < p.heads, interleaved = p.interleaved && p.cos;
    const std::int64_t step = interleaved ? 2 : 1, apart = interleaved ? 1 : half;
    float a[kPairs], b[kPairs], end = odd ? widen(in[last]) : 0.0f, sum = 0;
    const float end_result = kBackward && p.norm && odd && transformed ? widen(result[last]) : 0.0f;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + i * kWarp;
      const std::int64_t at = begin + pair * step;
      a[i] = pair < half ? widen(in[at]) : 0.0f;
      b[i] = pair < half ? widen(in[at + apart]) : 0.0f;
    }
    Factors f;
    float* rstd = p.rstd + row * p.heads + head;
    if (p.norm && transformed) {
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        const int pair = lane + i * kWarp;
        const std::int64_t at = begin + pair * step;
        if (pair >= half) continue;
        sum += a[i] * (kBackward ? widen(result[at]) : a[i]);
        sum += b[i] * (kBackward ? widen(result[at + apart]) : b[i]);
      }
      sum += end * (kBackward ? end_result : end);
      f = factors_of<kBackward>(p, warp_sum(sum) / static_cast<float>(p.head_dim), rstd, lane == 0);
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int pair = lane + i * kWarp;
      const std::int64_t at = begin + pair * step;
      if (pair >= half) continue;
      if (kBackward && p.norm && transformed) {
        a[i] -= f.off * widen(result[at]);
        b[i] -= f.off * widen(result[at + apart]);
      }
      if (p.cos && transformed) {
        const std::int64_t angle = row % p.context * half + pair;
        rotate_pair<FastMath>(a[i], b[i], f.scale * p.cos[angle], f.scale * p.turn * p.sin[angle]);
      } else {
        a[i] *= f.scale;
        b[i] *= f.scale;
      }
      out[at] = narrow<T>(a[i]);
      out[at + apart] = narrow<T>(b[i]);
    }
    if (odd) out[last] = narrow<T>((end - f.off * end_result) * f.scale);
  }
}

// ---- the host's part

void check(const HeadLayout& layout, const QkTransform& t, const Tensor& x, const Tensor& y,
           const Tensor& rstd, const char* kernel) {
  require(layout.head_dim >= 1 && layout.head_dim <= kLargestHead, kernel, [&] {
    return "head_dim is " + std::to_string(layout.head_dim) + ", a GPU takes 1 to " +
           std::to_string(kLargestHead);
  });
  require_compute(x, kernel, "the input");
  require_same(x, y, kernel, "input and output");
  require(x.numel() == layout.rows() * layout.packed(), kernel, [&] {
    return x.shape.str() + " is not [batch * context, packed] = [" + std::to_string(layout.rows()) + ", " +
           std::to_string(layout.packed()) + "]";
  });
  require_vector(rstd, DType::f32, layout.rows() * (layout.heads + layout.kv_heads), !t.norm, kernel, "rstd");
  if (!t.cos && !t.sin) return;
  require(layout.head_dim % 2 == 0, kernel,
          [&] { return "head_dim " + std::to_string(layout.head_dim) + " is odd, a rotation needs pairs"; });
  require_vector(t.cos, DType::f32, layout.context * (layout.head_dim / 2), false, kernel, "cos");
  require_vector(t.sin, DType::f32, layout.context * (layout.head_dim / 2), false, kernel, "sin");
  require(t.sign == 1 || t.sign == -1, kernel, "the sign of the rotation must be 1 or -1");
}

Args arguments(const HeadLayout& layout, const QkTransform& t, const Tensor& in, const Tensor& result,
               const Tensor& out, const Tensor& rstd, bool backward) {
  const auto heads = static_cast<int>(layout.heads + layout.kv_heads);
  const bool in_place = in.data == out.data;
  const auto vector = [](const Tensor& x) { return static_cast<float*>(x.data); };
  return {in.data,
          result.data,
          out.data,
          vector(t.cos),
          vector(t.sin),
          vector(rstd),
          layout.rows(),
          static_cast<unsigned>(layout.context),
          heads,
          in_place ? heads : heads + static_cast<int>(layout.kv_heads),
          static_cast<int>(layout.head_dim),
          layout.packed(),
          static_cast<float>(t.eps),
          static_cast<float>(backward ? -t.sign : t.sign),
          t.norm,
          t.pairs == RotaryPairs::interleaved};
}

template <class T>
bool in_packs(const Args& p) {
  const int lanes = p.head_dim / (2 * kPack<T>);
  const auto aligned = [](const void* x) { return packable(static_cast<const float*>(x), 0); };
  return lanes >= 1 && lanes <= kWarp && lanes * 2 * kPack<T> == p.head_dim && (lanes & (lanes - 1)) == 0 &&
         aligned(p.in) && aligned(p.result) && aligned(p.out) && aligned(p.cos) && aligned(p.sin);
}

template <class T, bool kBackward>
void run(CudaBackend& backend, const Args& p) {
  if (p.rows * p.all_heads == 0) return;
  if (in_packs<T>(p)) {
    // As many turns as a row needs of a block, and threads to fill them evenly.
    const int items = p.all_heads * (p.head_dim / (2 * kPack<T>)), turns = (items + kThreads - 1) / kThreads;
    const int threads = ((items + turns - 1) / turns + kWarp - 1) / kWarp * kWarp;
    return launch(backend.stream(),
                  {backend.blocks_for(p.rows, kTurns * 1024 / threads), static_cast<unsigned>(threads)},
                  packed_heads_kernel<T, kBackward>, p);
  }
  const std::int64_t warps = kThreads / kWarp;
  launch(backend.stream(), {backend.blocks_for((p.rows * p.all_heads + warps - 1) / warps), kThreads},
         any_head_kernel<T, kBackward>, p);
}

}  // namespace

void CudaBackend::qk_transform(const HeadLayout& layout, const QkTransform& t, const Tensor& in,
                               const Tensor& out, const Tensor& rstd) {
  check(layout, t, in, out, rstd, "qk_transform");
  const Args p = arguments(layout, t, in, {}, out, rstd, false);
  with_compute(in, "qk_transform", [&](auto* x) { run<Element<decltype(x)>, false>(*this, p); });
}

void CudaBackend::qk_transform_backward(const HeadLayout& layout, const QkTransform& t, const Tensor& dout,
                                        const Tensor& out, const Tensor& rstd, const Tensor& din) {
  check(layout, t, dout, din, rstd, "qk_transform_backward");
  // Only the norm's gradient reads the output; a rotation alone is undone from the gradient by itself.
  if (t.norm) require_same(dout, out, "qk_transform_backward", "output and gradient");
  const Args p = arguments(layout, t, dout, t.norm ? out : Tensor(), din, rstd, true);
  with_compute(dout, "qk_transform_backward", [&](auto* x) { run<Element<decltype(x)>, true>(*this, p); });
}

}  // namespace spectrain
