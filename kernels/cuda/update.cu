#include "kernels/adamw_factors.h"
#include "kernels/cpu/checks.h"
#include "kernels/cuda/many.h"

// The optimizer's element-wise kernels: as much time as their bytes take. A thread has 16 bytes of each
// tensor in flight, a multiprocessor as many threads as registers allow (AdamW: 1280).

namespace spectrain {
namespace {

const double* late_numbers(const Tensor& t, std::int64_t count) {
  if (!t) return nullptr;
  require(t.numel() == count, "an update", "a tensor of late numbers has another size");
  return t.as<double>();
}

// Number, on the device.
struct DeviceNumber {
  double value = 1;
  const double* late = nullptr;
  DeviceNumber() = default;
  explicit DeviceNumber(const Number& n) : value(n.value), late(late_numbers(n.late, 1)) {}
  __device__ double seen() const { return late ? value * *late : value; }
};

// Floor: 7 x 4 bytes for each element (w, m, v read and written, g read).
struct AdamWPointers {
  float* w;
  const float* g;
  float *m, *v;
  bool aligned() const {
    return aligned_for(4, w) && aligned_for(4, g) && aligned_for(4, m) && aligned_for(4, v);
  }
};
struct AdamW {
  AdamWFactors f;
  double weight_decay;
  const double* late_rates;
  DeviceNumber scale;
  __device__ bool begin() {
    const double factor = scale.seen();
    f.gradient_scale = static_cast<float>(factor);
    if (late_rates) set_rates(f, weight_decay, late_rates);
    return !isnan(factor);
  }
  template <int N>
  __device__ void some(const AdamWPointers& p, std::int64_t i) const {
    Pack<float, N> w = load_some<N>(p.w + i), m = load_some<N>(p.m + i), v = load_some<N>(p.v + i);
    const Pack<float, N> g = load_some<N>(p.g + i);
    for (int k = 0; k < N; ++k) adamw_element(f, w.v[k], g.v[k], m.v[k], v.v[k]);
    store_some(p.w + i, w);
    store_some(p.m + i, m);
    store_some(p.v + i, v);
  }
};

// Floor: g read, m read and written, u written.
template <class U>
struct MomentumPointers {
  const float* g;
  float* m;
  U* u;
  bool aligned() const { return aligned_for(4, g) && aligned_for(4, m) && aligned_for(4, u); }
};
template <bool nesterov>
struct EmaMomentum {
  DeviceNumber momentum, weight, scale;
  float gradient_scale, mu, rest;
  __device__ bool begin() {
    const double factor = scale.seen() * weight.seen(), m = momentum.seen();
    gradient_scale = static_cast<float>(factor);
    mu = static_cast<float>(m);
    rest = static_cast<float>(1 - m);
    return !isnan(factor);
  }
  template <int N, class U>
  __device__ void some(const MomentumPointers<U>& p, std::int64_t i) const {
    Pack<float, N> m = load_some<N>(p.m + i);
    const Pack<float, N> g = load_some<N>(p.g + i);
    Pack<U, N> u;
    for (int k = 0; k < N; ++k)
      u.v[k] = narrow<U>(ema_element(g.v[k], gradient_scale, mu, rest, nesterov, m.v[k]));
    store_some(p.m + i, m);
    store_some(p.u + i, u);
  }
};

// Floor: w read and written, u read.
template <class U>
struct UpdatePointers {
  float* w;
  const U* u;
  bool aligned() const { return aligned_for(4, w) && aligned_for(4, u); }
};
struct ApplyUpdate {
  DeviceNumber keep, rate, verdict;
  KeepFactor k;
  float step;
  __device__ bool begin() {
    k = keep_factor(keep.seen());
    step = static_cast<float>(rate.seen());
    return !isnan(verdict.seen());
  }
  template <int N, class U>
  __device__ void some(const UpdatePointers<U>& p, std::int64_t i) const {
    Pack<float, N> w = load_some<N>(p.w + i);
    const Pack<U, N> u = load_some<N>(p.u + i);
    for (int e = 0; e < N; ++e)
      w.v[e] = k.shrinks ? shrink_and_step_element(w.v[e], k.factor, step, widen(u.v[e]))
                         : keep_and_step_element(w.v[e], k.factor, step, widen(u.v[e]));
    store_some(p.w + i, w);
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

__global__ void clip_factor_kernel(const double* squares, const double* loss, double clip, double* verdict) {
  if (!isfinite(*loss)) verdict[1] = 1;
  const bool good = isfinite(*squares) && verdict[1] == 0;
  verdict[0] = good ? clip_factor_of(*squares, clip) : static_cast<double>(NAN);
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

void CudaBackend::adamw(const AdamWStep& s, std::span<const AdamWPart> parts) {
  for (const AdamWPart& p : parts) {
    const std::int64_t n = p.w.numel();
    require_f32(p.w, "adamw", "w", n);
    require_f32(p.g, "adamw", "g", n);
    require_f32(p.m, "adamw", "m", n);
    require_f32(p.v, "adamw", "v", n);
  }
  require(s.step >= 1, "adamw", "steps count from 1");
  launch_many(
      *this,
      AdamW{adamw_factors(s, 1, s.rates().data()), s.weight_decay,
            late_numbers(s.late_rates, AdamWStep::kRates), DeviceNumber(s.gradient_scale)},
      parts,
      [](const AdamWPart& p) {
        return AdamWPointers{p.w.as<float>(), p.g.as<float>(), p.m.as<float>(), p.v.as<float>()};
      },
      [](const AdamWPart& p) { return p.w.numel(); });
}

void CudaBackend::ema_momentum(const MomentumStep& s, std::span<const MomentumPart> parts) {
  for (const MomentumPart& p : parts) {
    const std::int64_t n = p.g.numel();
    require_f32(p.g, "ema_momentum", "g", n);
    require_f32(p.m, "ema_momentum", "m", n);
    require(p.u.numel() == n, "ema_momentum", "g and u have different numbers of elements");
    require(p.u.dtype == parts[0].u.dtype, "ema_momentum", "u is not of one dtype in all parts");
  }
  if (parts.empty()) return;
  with_iterated(parts[0].u, "ema_momentum", [&](auto* first) {
    using U = Element<decltype(first)>;
    const auto start = [&](auto body) {
      body.momentum = DeviceNumber(s.mu);
      body.weight = DeviceNumber(s.weight);
      body.scale = DeviceNumber(s.gradient_scale);
      launch_many(
          *this, body, parts,
          [](const MomentumPart& p) {
            return MomentumPointers<U>{p.g.as<float>(), p.m.as<float>(), p.u.as<U>()};
          },
          [](const MomentumPart& p) { return p.g.numel(); });
    };
    if (s.nesterov)
      start(EmaMomentum<true>{});
    else
      start(EmaMomentum<false>{});
  });
}

void CudaBackend::apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts,
                               const Tensor& verdict) {
  for (const UpdatePart& p : parts) {
    require_f32(p.w, "apply_update", "w", p.w.numel());
    require(p.u.numel() == p.w.numel(), "apply_update", "w and u have different numbers of elements");
    require(p.u.dtype == parts[0].u.dtype, "apply_update", "u is not of one dtype in all parts");
  }
  if (parts.empty()) return;
  with_iterated(parts[0].u, "apply_update", [&](auto* first) {
    using U = Element<decltype(first)>;
    launch_many(
        *this, ApplyUpdate{DeviceNumber(keep), DeviceNumber(step), DeviceNumber({1, verdict}), {}, 0}, parts,
        [](const UpdatePart& p) {
          return UpdatePointers<U>{p.w.as<float>(), p.u.as<U>()};
        },
        [](const UpdatePart& p) { return p.w.numel(); });
  });
}

void CudaBackend::clip_factor(const Tensor& squares, const Tensor& loss, double clip, const Tensor& verdict) {
  require_vector(squares, DType::f64, 1, false, "clip_factor", "squares");
  require_vector(loss, DType::f64, 1, false, "clip_factor", "loss");
  require_vector(verdict, DType::f64, 2, false, "clip_factor", "verdict");
  launch(stream_, {1, 1}, clip_factor_kernel, squares.as<double>(), loss.as<double>(), clip,
         verdict.as<double>());
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
