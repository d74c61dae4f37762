#include "kernels/adamw_factors.h"
#include "kernels/cpu/checks.h"
#include "kernels/cuda/elementwise.h"

// The optimizer's element-wise kernels: as much time as their bytes take. A thread has 16 bytes of each
// tensor in flight, a multiprocessor 2048 threads.

namespace spectrain {
namespace {

// Floor: 7 x 4 bytes for each element (w, m, v read and written, g read).
struct AdamW {
  AdamWFactors f;
  float* w;
  const float* g;
  float *m, *v;
  template <int N>
  __device__ void some(std::int64_t i) const {
    Pack<float, N> pw = load_some<N>(w + i), pm = load_some<N>(m + i), pv = load_some<N>(v + i);
    const Pack<float, N> pg = load_some<N>(g + i);
    for (int k = 0; k < N; ++k) adamw_element(f, pw.v[k], pg.v[k], pm.v[k], pv.v[k]);
    store_some(w + i, pw);
    store_some(m + i, pm);
    store_some(v + i, pv);
  }
};

// Floor: g read, m read and written, u written.
template <bool nesterov, class U>
struct EmaMomentum {
  float gradient_scale, mu, rest;
  const float* g;
  float* m;
  U* u;
  template <int N>
  __device__ void some(std::int64_t i) const {
    Pack<float, N> pm = load_some<N>(m + i);
    const Pack<float, N> pg = load_some<N>(g + i);
    Pack<U, N> pu;
    for (int k = 0; k < N; ++k)
      pu.v[k] = narrow<U>(ema_element(pg.v[k], gradient_scale, mu, rest, nesterov, pm.v[k]));
    store_some(m + i, pm);
    store_some(u + i, pu);
  }
};

// Floor: w read and written, u read.
template <bool shrinks, class U>
struct ApplyUpdate {
  float factor, step;
  float* w;
  const U* u;
  template <int N>
  __device__ void some(std::int64_t i) const {
    Pack<float, N> pw = load_some<N>(w + i);
    const Pack<U, N> pu = load_some<N>(u + i);
    for (int k = 0; k < N; ++k)
      pw.v[k] = shrinks ? shrink_and_step_element(pw.v[k], factor, step, widen(pu.v[k]))
                        : keep_and_step_element(pw.v[k], factor, step, widen(pu.v[k]));
    store_some(w + i, pw);
  }
};

template <class X, class Y>
using Wider = std::conditional_t<std::is_same_v<X, double> || std::is_same_v<Y, double>, double, float>;

// Floor: x read, y written, and read unless b is 0 (then y may be uninitialised memory).
template <bool reads_y, class X, class Y>
struct Axpby {
  Wider<X, Y> a, b;
  const X* x;
  Y* y;
  template <int N>
  __device__ void some(std::int64_t i) const {
    using W = Wider<X, Y>;
    const Pack<X, N> px = load_some<N>(x + i);
    Pack<Y, N> py;
    if constexpr (reads_y) py = load_some<N>(static_cast<const Y*>(y) + i);
    for (int k = 0; k < N; ++k) {
      const W ax = a * static_cast<W>(widen(px.v[k]));
      if constexpr (reads_y)
        py.v[k] = narrow<Y>(ax + b * static_cast<W>(widen(py.v[k])));
      else
        py.v[k] = narrow<Y>(ax);
    }
    store_some(y + i, py);
  }
};

void require_f32(const Tensor& t, const char* kernel, const char* name, std::int64_t n) {
  require_vector(t, DType::f32, n, n == 0, kernel, name);
}

template <class X, class Y>
struct RoundFp8 {
  Fp8Limits limits;
  float factor, back;
  const X* x;
  Y* y;
  template <int N>
  __device__ void some(std::int64_t i) const {
    Pack<X, N> in = load_some<N>(x + i);
    Pack<Y, N> out;
    for (int k = 0; k < N; ++k)
      out.v[k] = narrow<Y>(fp8_rounded(limits, factor * static_cast<float>(widen(in.v[k]))) * back);
    store_some(y + i, out);
  }
};

}  // namespace

void CudaBackend::adamw(const AdamWStep& s, const Tensor& w, const Tensor& g, const Tensor& m,
                        const Tensor& v) {
  const std::int64_t n = w.numel();
  require_f32(w, "adamw", "w", n);
  require_f32(g, "adamw", "g", n);
  require_f32(m, "adamw", "m", n);
  require_f32(v, "adamw", "v", n);
  require(s.step >= 1, "adamw", "steps count from 1");
  const AdamW body{adamw_factors(s), w.as<float>(), g.as<float>(), m.as<float>(), v.as<float>()};
  launch_elementwise(
      *this, body, n,
      aligned_for(4, body.w) && aligned_for(4, body.g) && aligned_for(4, body.m) && aligned_for(4, body.v));
}

void CudaBackend::ema_momentum(const Tensor& g, double gradient_scale, double mu, bool nesterov,
                               const Tensor& m, const Tensor& u) {
  const std::int64_t n = g.numel();
  require_f32(g, "ema_momentum", "g", n);
  require_f32(m, "ema_momentum", "m", n);
  require(u.numel() == n, "ema_momentum", "g and u have different numbers of elements");
  with_iterated(u, "ema_momentum", [&](auto* pu) {
    using U = Element<decltype(pu)>;
    const auto start = [&](auto body) {
      body.gradient_scale = static_cast<float>(gradient_scale);
      body.mu = static_cast<float>(mu);
      body.rest = static_cast<float>(1 - mu);
      body.g = g.as<float>();
      body.m = m.as<float>();
      body.u = pu;
      launch_elementwise(*this, body, n,
                         aligned_for(4, body.g) && aligned_for(4, body.m) && aligned_for(4, pu));
    };
    if (nesterov)
      start(EmaMomentum<true, U>{});
    else
      start(EmaMomentum<false, U>{});
  });
}

void CudaBackend::apply_update(const Tensor& w, double keep, double step, const Tensor& u) {
  const std::int64_t n = w.numel();
  require_f32(w, "apply_update", "w", n);
  require(u.numel() == n, "apply_update", "w and u have different numbers of elements");
  with_iterated(u, "apply_update", [&](auto* pu) {
    using U = Element<decltype(pu)>;
    const KeepFactor k = keep_factor(keep);
    const auto start = [&](auto body) {
      body.factor = k.factor;
      body.step = static_cast<float>(step);
      body.w = w.as<float>();
      body.u = pu;
      launch_elementwise(*this, body, n, aligned_for(4, body.w) && aligned_for(4, pu));
    };
    if (k.shrinks)
      start(ApplyUpdate<true, U>{});
    else
      start(ApplyUpdate<false, U>{});
  });
}

void CudaBackend::round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) {
  require(x.numel() == y.numel() && scale > 0, "round_fp8",
          "x and y of one size, and a scale above 0, are needed");
  with_compute(x, "round_fp8", [&](auto* px) {
    with_compute(y, "round_fp8", [&](auto* py) {
      const RoundFp8<Element<decltype(px)>, Element<decltype(py)>> body{
          limits_of(format), static_cast<float>(scale), static_cast<float>(1 / scale), px, py};
      launch_elementwise(*this, body, y.numel(), aligned_for(4, px) && aligned_for(4, py));
    });
  });
}

void CudaBackend::axpby(double a, const Tensor& x, double b, const Tensor& y) {
  const std::int64_t n = y.numel();
  require(x.numel() == n, "axpby", "x and y have different numbers of elements");
  with_float(x, "axpby", [&](auto* px) {
    with_float(y, "axpby", [&](auto* py) {
      using X = Element<decltype(px)>;
      using Y = Element<decltype(py)>;
      const auto wa = static_cast<Wider<X, Y>>(a), wb = static_cast<Wider<X, Y>>(b);
      const bool aligned = aligned_for(4, px) && aligned_for(4, py);
      if (b == 0)
        launch_elementwise(*this, Axpby<false, X, Y>{wa, wb, px, py}, n, aligned);
      else
        launch_elementwise(*this, Axpby<true, X, Y>{wa, wb, px, py}, n, aligned);
    });
  });
}

}  // namespace spectrain
