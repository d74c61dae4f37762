#include "kernels/cuda/attention.h"
#include "kernels/cuda/attention_visible.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/launch.h"

// Attention for every layout in float32 arithmetic: a warp for each query (forward, dq) and for each key (dk,
// dv). 32 scores at a time, one to a lane, each an own sum over head_dim; then the lanes share out the
// columns and add the 32 rows in order. Scores are in shared memory for these 32 only. No tensor core is
// used: about 4 D float32 operations for each pair, and rows of keys are read by the lanes apart, from the L1
// cache.

namespace spectrain {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kLargest = static_cast<int>(kLargestPlainHeadDim);

template <class T>
struct PlainArgs {
  int batch, context, heads, kv_heads, head_dim;
  std::int64_t packed, width;
  Visible visible;
  float scale;
  const T *qkv, *out, *dout;
  T *out_written, *dqkv;
  float *lse, *delta;  // [batch, heads, context]

  __device__ const T* query(std::int64_t b, std::int64_t t, int head) const {
    return qkv + (b * context + t) * packed + std::int64_t{head} * head_dim;
  }
  __device__ const T* key(std::int64_t b, std::int64_t t, int kv_head) const {
    return query(b, t, heads + kv_head);
  }
  __device__ const T* value(std::int64_t b, std::int64_t t, int kv_head) const {
    return query(b, t, heads + kv_heads + kv_head);
  }
  // Of dout or out.
  __device__ std::int64_t result(std::int64_t b, std::int64_t t, int head) const {
    return (b * context + t) * width + std::int64_t{head} * head_dim;
  }
};

// What one warp keeps in shared memory: two rows in float32, and a number or two for each of 32 pairs.
struct WarpRows {
  float a[kLargest], b[kLargest], p[kWarp], ds[kWarp];
};

template <class T>
__device__ inline void keep_row(float* row, const T* from, int n) {
  for (int d = static_cast<int>(threadIdx.x) % kWarp; d < n; d += kWarp) row[d] = widen(from[d]);
}
template <class T>
__device__ inline float dot(const float* row, const T* x, int n) {
  float sum = 0;
  for (int d = 0; d < n; ++d) sum += row[d] * widen(x[d]);
  return sum;
}

// The warp's pieces of work, the same for all its lanes: warps take them in turn.
#define SPECTRAIN_WARP_LOOP(i, n)                                                                      \
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp; i < (n); \
       i += static_cast<std::int64_t>(gridDim.x) * kWarps)

// kPer: columns of each lane.
template <class T, int kPer>
__global__ void __launch_bounds__(kThreads) plain_forward_kernel(const PlainArgs<T> a) {
  __shared__ WarpRows rows[kWarps];
  WarpRows& own = rows[threadIdx.x / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, D = a.head_dim;
  SPECTRAIN_WARP_LOOP(i, std::int64_t{a.batch} * a.heads * a.context) {
    const int t = static_cast<int>(i % a.context), head = static_cast<int>(i / a.context % a.heads);
    const std::int64_t b = i / a.context / a.heads;
    const int kv_head = head / (a.heads / a.kv_heads);
    keep_row(own.a, a.query(b, t, head), D);
    __syncwarp();
    float out[kPer] = {}, largest = -INFINITY, sum = 0;
    for (int first = a.visible.first_key(b, t); first <= t; first += kWarp) {
      const int s = first + lane;
      const float score = s <= t ? a.scale * dot(own.a, a.key(b, s, kv_head), D) : -INFINITY;
      const float before = largest;
      largest = fmaxf(largest, warp_max(score));
      // Where all scores are no numbers the maximum says nothing, and the weights are no numbers either.
      const float correction = expf(before - largest);
      const float p = s <= t ? expf(score - largest) : 0;
      sum = sum * correction + warp_sum(p);
      own.p[lane] = p;
      __syncwarp();
      const int count = t - first + 1 < kWarp ? t - first + 1 : kWarp;
#pragma unroll
      for (int k = 0; k < kPer; ++k) out[k] *= correction;
      for (int j = 0; j < count; ++j) {
        const T* v = a.value(b, first + j, kv_head);
#pragma unroll
        for (int k = 0; k < kPer; ++k)
          if (lane + k * kWarp < D) out[k] += own.p[j] * widen(v[lane + k * kWarp]);
      }
      __syncwarp();
    }
#pragma unroll
    for (int k = 0; k < kPer; ++k)
      if (lane + k * kWarp < D)
        a.out_written[a.result(b, t, head) + lane + k * kWarp] = narrow<T>(out[k] / sum);
    if (a.lse && lane == 0) a.lse[i] = largest + logf(sum);
  }
}

// delta = rowsum(dout * out).
template <class T>
__global__ void __launch_bounds__(kThreads) plain_delta_kernel(const PlainArgs<T> a) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  SPECTRAIN_WARP_LOOP(i, std::int64_t{a.batch} * a.heads * a.context) {
    const std::int64_t at =
        a.result(i / a.context / a.heads, i % a.context, static_cast<int>(i / a.context % a.heads));
    float sum = 0;
    for (int d = lane; d < a.head_dim; d += kWarp) sum += widen(a.dout[at + d]) * widen(a.out[at + d]);
    sum = warp_sum(sum);
    if (lane == 0) a.delta[i] = sum;
  }
}

template <class T, int kPer>
__global__ void __launch_bounds__(kThreads) plain_dq_kernel(const PlainArgs<T> a) {
  __shared__ WarpRows rows[kWarps];
  WarpRows& own = rows[threadIdx.x / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, D = a.head_dim;
  SPECTRAIN_WARP_LOOP(i, std::int64_t{a.batch} * a.heads * a.context) {
    const int t = static_cast<int>(i % a.context), head = static_cast<int>(i / a.context % a.heads);
    const std::int64_t b = i / a.context / a.heads;
    const int kv_head = head / (a.heads / a.kv_heads);
    keep_row(own.a, a.query(b, t, head), D);
    keep_row(own.b, a.dout + a.result(b, t, head), D);
    __syncwarp();
    float dq[kPer] = {};
    for (int first = a.visible.first_key(b, t); first <= t; first += kWarp) {
      const int s = first + lane;
      float ds = 0;
      if (s <= t) {
        const float p = expf(a.scale * dot(own.a, a.key(b, s, kv_head), D) - a.lse[i]);
        ds = p * (dot(own.b, a.value(b, s, kv_head), D) - a.delta[i]);
      }
      own.ds[lane] = ds;
      __syncwarp();
      const int count = t - first + 1 < kWarp ? t - first + 1 : kWarp;
      for (int j = 0; j < count; ++j) {
        const T* key = a.key(b, first + j, kv_head);
#pragma unroll
        for (int k = 0; k < kPer; ++k)
          if (lane + k * kWarp < D) dq[k] += own.ds[j] * widen(key[lane + k * kWarp]);
      }
      __syncwarp();
    }
    T* to = a.dqkv + (a.query(b, t, head) - a.qkv);
#pragma unroll
    for (int k = 0; k < kPer; ++k)
      if (lane + k * kWarp < D) to[lane + k * kWarp] = narrow<T>(a.scale * dq[k]);
  }
}

// Adds what the queries of one head give to dk and dv of key s, whose rows are in `own`.
template <class T, int kPer>
__device__ inline void add_queries(const PlainArgs<T>& a, WarpRows& own, std::int64_t b, int head, int s,
                                   float (&dk)[kPer], float (&dv)[kPer]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp, D = a.head_dim;
  const std::int64_t row = (b * a.heads + head) * a.context;
  for (int first = s; first < a.context; first += kWarp) {
    if (a.visible.first_key(b, first) > s) return;  // nor does any later one see the key
    const int t = first + lane;
    float p = 0, ds = 0;
    if (t < a.context && a.visible.first_key(b, t) <= s) {
      p = expf(a.scale * dot(own.a, a.query(b, t, head), D) - a.lse[row + t]);
      ds = p * (dot(own.b, a.dout + a.result(b, t, head), D) - a.delta[row + t]);
    }
    own.p[lane] = p;
    own.ds[lane] = ds;
    __syncwarp();
    const int count = a.context - first < kWarp ? a.context - first : kWarp;
    for (int j = 0; j < count; ++j) {
      const T *q = a.query(b, first + j, head), *dout = a.dout + a.result(b, first + j, head);
#pragma unroll
      for (int k = 0; k < kPer; ++k)
        if (lane + k * kWarp < D) {
          dk[k] += own.ds[j] * widen(q[lane + k * kWarp]);
          dv[k] += own.p[j] * widen(dout[lane + k * kWarp]);
        }
    }
    __syncwarp();
  }
}

template <class T, int kPer>
__global__ void __launch_bounds__(kThreads) plain_keys_kernel(const PlainArgs<T> a) {
  __shared__ WarpRows rows[kWarps];
  WarpRows& own = rows[threadIdx.x / kWarp];
  const int lane = static_cast<int>(threadIdx.x) % kWarp, D = a.head_dim, group = a.heads / a.kv_heads;
  SPECTRAIN_WARP_LOOP(i, std::int64_t{a.batch} * a.kv_heads * a.context) {
    const int s = static_cast<int>(i % a.context), kv_head = static_cast<int>(i / a.context % a.kv_heads);
    const std::int64_t b = i / a.context / a.kv_heads;
    keep_row(own.a, a.key(b, s, kv_head), D);
    keep_row(own.b, a.value(b, s, kv_head), D);
    __syncwarp();
    float dk[kPer] = {}, dv[kPer] = {};
    for (int head = kv_head * group; head < (kv_head + 1) * group; ++head)
      add_queries<T, kPer>(a, own, b, head, s, dk, dv);
    T* to_key = a.dqkv + (a.key(b, s, kv_head) - a.qkv);
    T* to_value = a.dqkv + (a.value(b, s, kv_head) - a.qkv);
#pragma unroll
    for (int k = 0; k < kPer; ++k)
      if (lane + k * kWarp < D) {
        to_key[lane + k * kWarp] = narrow<T>(a.scale * dk[k]);
        to_value[lane + k * kWarp] = narrow<T>(dv[k]);
      }
    __syncwarp();  // the rows are free for the next key
  }
}

template <class T>
PlainArgs<T> arguments(const HeadLayout& l, double scale, const Tensor& qkv, const Tensor& first_key) {
  PlainArgs<T> a{};
  a.batch = static_cast<int>(l.batch);
  a.context = static_cast<int>(l.context);
  a.heads = static_cast<int>(l.heads);
  a.kv_heads = static_cast<int>(l.kv_heads);
  a.head_dim = static_cast<int>(l.head_dim);
  a.packed = l.packed();
  a.width = l.width();
  a.visible = visible(first_key, l.context);
  a.scale = static_cast<float>(scale);
  a.qkv = qkv.as<T>();
  return a;
}

// Calls body(columns of each lane) with a compile-time constant.
template <class Body>
void with_columns(std::int64_t head_dim, Body body) {
  if (head_dim <= 32) return body(std::integral_constant<int, 1>{});
  if (head_dim <= 64) return body(std::integral_constant<int, 2>{});
  if (head_dim <= 128) return body(std::integral_constant<int, 4>{});
  if (head_dim <= kLargest) return body(std::integral_constant<int, 8>{});
  throw std::logic_error("attention: head_dim is " + std::to_string(head_dim) + ", a GPU takes 1 to " +
                         std::to_string(kLargest));
}

Grid grid(const CudaBackend& backend, std::int64_t work) {
  return {backend.blocks_for((work + kWarps - 1) / kWarps, 64), kThreads};
}

}  // namespace

void plain_attention(CudaBackend& backend, const HeadLayout& layout, double scale, const Tensor& qkv,
                     const Tensor& first_key, const Tensor& out, const Tensor& lse) {
  const std::int64_t queries = layout.rows() * layout.heads;
  if (queries == 0) return;
  with_compute(qkv, "attention", [&](auto* p) {
    using T = Element<decltype(p)>;
    PlainArgs<T> a = arguments<T>(layout, scale, qkv, first_key);
    a.out_written = out.as<T>();
    a.lse = lse ? lse.as<float>() : nullptr;
    with_columns(layout.head_dim, [&](auto per) {
      launch(backend.stream(), grid(backend, queries), plain_forward_kernel<T, per>, a);
    });
  });
}

void plain_attention_backward(CudaBackend& backend, const HeadLayout& layout, double scale,
                              const Tensor& dout, const Tensor& qkv, const Tensor& first_key,
                              const Tensor& out, const Tensor& lse, const Tensor& dqkv) {
  const std::int64_t queries = layout.rows() * layout.heads;
  if (queries == 0) return;
  with_compute(qkv, "attention_backward", [&](auto* p) {
    using T = Element<decltype(p)>;
    PlainArgs<T> a = arguments<T>(layout, scale, qkv, first_key);
    a.out = out.as<T>();
    a.dout = dout.as<T>();
    a.dqkv = dqkv.as<T>();
    a.lse = lse.as<float>();
    a.delta = static_cast<float*>(backend.scratch(static_cast<std::size_t>(queries) * sizeof(float)));
    with_columns(layout.head_dim, [&](auto per) {
      launch(backend.stream(), grid(backend, queries), plain_delta_kernel<T>, a);
      launch(backend.stream(), grid(backend, queries), plain_dq_kernel<T, per>, a);
      launch(backend.stream(), grid(backend, layout.rows() * layout.kv_heads), plain_keys_kernel<T, per>, a);
    });
  });
}

}  // namespace spectrain
