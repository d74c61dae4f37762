#include <limits>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_math.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed.h"
#include "kernels/formulas.h"

// Element by element. Floor: one reading of every input and one writing of the result. A thread has 32 to 64
// bytes under way in accesses of 16, which is what it takes to keep the memory busy; where a tensor begins
// at an odd address, or a row has an odd length, the same elements are done one by one.

namespace spectrain {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 2;  // packs of each input in flight
// Of each multiprocessor: not what fits at a time but as many as there is work for. They are given out as
// others end, so that none is left alone with the last tenth of the work; the loops are for tensors beyond
// that.
constexpr int kBlocks = 1 << 14;

// ---- what is done with an element: a, and b where there is a second input

template <float (*formula)(float)>
struct Unary {
  static constexpr bool kTwo = false;
  __device__ float operator()(float a, float) const { return formula(a); }
};
// b is what the forward pass saved.
template <float (*slope)(float)>
struct Backward {
  static constexpr bool kTwo = true;
  __device__ float operator()(float a, float b) const { return a * slope(b); }
};
struct Sum {
  static constexpr bool kTwo = true;
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Scaled {
  static constexpr bool kTwo = false;
  float factor;
  __device__ float operator()(float a, float) const { return factor * a; }
};

// P: elements of one access, 1 where nothing is aligned. y may be a or b: a thread reads what it is going to
// write first.
template <class T, int P, class F>
__global__ void __launch_bounds__(kThreads)
    elementwise_kernel(const T* a, const T* b, T* y, std::int64_t n, F f) {
  constexpr std::int64_t kTile = std::int64_t{kThreads} * kAtOnce;
  const std::int64_t packs = n / P;
  for (std::int64_t first = blockIdx.x * kTile + threadIdx.x; first < packs; first += gridDim.x * kTile) {
    Packed<T, P> left[kAtOnce], right[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t at = first + i * kThreads;
      if (at >= packs) continue;
      left[i] = Packed<T, P>::load(a + at * P);
      if constexpr (F::kTwo) right[i] = Packed<T, P>::load(b + at * P);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const std::int64_t at = first + i * kThreads;
      if (at >= packs) continue;
      float value[P];
#pragma unroll
      for (int k = 0; k < P; ++k) {
        float second = 0;
        if constexpr (F::kTwo) second = right[i].at(k);
        value[k] = f(left[i].at(k), second);
      }
      left[i].set(value);
      left[i].store(y + at * P);
    }
  }
  // What is left after the last whole pack.
  if (blockIdx.x == 0 && threadIdx.x < n % P) {
    const std::int64_t at = packs * P + threadIdx.x;
    float second = 0;
    if constexpr (F::kTwo) second = widen(b[at]);
    y[at] = narrow<T>(f(widen(a[at]), second));
  }
}

template <class T>
bool aligned(const T* p) {
  return packable(p, 0);
}

template <class T, class F>
void elementwise(CudaBackend& backend, const T* a, const T* b, T* y, std::int64_t n, F f) {
  if (n == 0) return;
  const bool packs = aligned(a) && aligned(b) && aligned(y);
  const std::int64_t tile = std::int64_t{kThreads} * kAtOnce * (packs ? kPack<T> : 1);
  const Grid grid{backend.blocks_for((n + tile - 1) / tile, kBlocks), kThreads};
  launch(backend.stream(), grid, packs ? elementwise_kernel<T, kPack<T>, F> : elementwise_kernel<T, 1, F>, a,
         b, y, n, f);
}

// ---- SwiGLU: rows of gate | up

template <class T>
struct SwigluArgs {
  const T *dy, *x;
  T *y, *dx;
  std::int64_t rows, width;
};

// Index of a pack: 32 bits where there are fewer packs than that can count (a division of 64 bits costs as
// much as eight elements' arithmetic), as everywhere but in a tensor of 64 GB.
template <class T, int P, class Index>
__global__ void __launch_bounds__(kThreads) swiglu_kernel(SwigluArgs<T> p) {
  using M = typename MathFor<T>::type;
  const auto per_row = static_cast<Index>(p.width / P);
  SPECTRAIN_GRID_LOOP(i, p.rows * (p.width / P)) {
    const Index row = static_cast<Index>(i) / per_row, col = static_cast<Index>(i) - row * per_row;
    const T* gates = p.x + 2 * p.width * row + std::int64_t{P} * col;
    const auto gate = Packed<T, P>::load(gates), up = Packed<T, P>::load(gates + p.width);
    float value[P];
#pragma unroll
    for (int k = 0; k < P; ++k) value[k] = silu<M>(gate.at(k)) * up.at(k);
    Packed<T, P> result;
    result.set(value);
    result.store(p.y + i * P);
  }
}

template <class T, int P, class Index>
__global__ void __launch_bounds__(kThreads) swiglu_backward_kernel(SwigluArgs<T> p) {
  using M = typename MathFor<T>::type;
  const auto per_row = static_cast<Index>(p.width / P);
  SPECTRAIN_GRID_LOOP(i, p.rows * (p.width / P)) {
    const Index row = static_cast<Index>(i) / per_row, col = static_cast<Index>(i) - row * per_row;
    const std::int64_t at = 2 * p.width * row + std::int64_t{P} * col;
    auto gate = Packed<T, P>::load(p.x + at), up = Packed<T, P>::load(p.x + at + p.width);
    const auto dy = Packed<T, P>::load(p.dy + i * P);
    float dgate[P], dup[P];
#pragma unroll
    for (int k = 0; k < P; ++k) {
      const SigmoidAndSlope s = sigmoid_and_slope<M>(gate.at(k));
      dgate[k] = dy.at(k) * up.at(k) * s.silu_slope;
      dup[k] = dy.at(k) * gate.at(k) * s.sigmoid;
    }
    gate.set(dgate);
    up.set(dup);
    gate.store(p.dx + at);
    up.store(p.dx + at + p.width);
  }
}

// A kernel for packs with a narrow index, or one for anything.
template <class T>
void launch_swiglu(CudaBackend& backend, const SwigluArgs<T>& p, void (*packs)(SwigluArgs<T>),
                   void (*elements)(SwigluArgs<T>)) {
  const std::int64_t n = p.rows * p.width;
  if (n == 0) return;
  const bool aligned_rows = packable(p.x, p.width) && aligned(p.y) && aligned(p.dy) && aligned(p.dx) &&
                            n / kPack<T> <= std::numeric_limits<std::uint32_t>::max();
  const std::int64_t threads = aligned_rows ? n / kPack<T> : n;
  launch(backend.stream(), {backend.blocks_for((threads + kThreads - 1) / kThreads, kBlocks), kThreads},
         aligned_rows ? packs : elements, p);
}

void require_halves(const Tensor& x, const Tensor& y, const char* kernel) {
  require_compute(x, kernel, "x");
  require(x.dtype == y.dtype && x.rows() == y.rows() && x.cols() == 2 * y.cols(), kernel,
          "gate | up must be [R,2F] and the rest [R,F], of one dtype");
}

}  // namespace

void CudaBackend::activation(Activation act, const Tensor& x, const Tensor& y) {
  require_compute(x, "activation", "x");
  require_same(x, y, "activation", "x and y");
  with_compute(x, "activation", [&](auto* in) {
    using T = Element<decltype(in)>;
    using M = typename MathFor<T>::type;
    const auto run = [&](auto f) {
      elementwise(*this, in, static_cast<T*>(nullptr), y.as<T>(), x.numel(), f);
    };
    switch (act) {
      case Activation::none:
        return run(Unary<activate_none<M>>{});
      case Activation::gelu:
        return run(Unary<activate_gelu<M>>{});
      case Activation::gelu_tanh:
        return run(Unary<activate_gelu_tanh<M>>{});
      case Activation::relu2:
        return run(Unary<activate_relu2<M>>{});
      case Activation::sigmoid:
        return run(Unary<activate_sigmoid<M>>{});
      case Activation::relu:
        return run(Unary<activate_relu<M>>{});
    }
    throw std::logic_error("activation: unknown activation");
  });
}

void CudaBackend::activation_backward(Activation act, const Tensor& dy, const Tensor& saved,
                                      const Tensor& dx) {
  require_compute(dy, "activation_backward", "dy");
  require_same(dy, dx, "activation_backward", "dy and dx");
  require_same(dy, saved, "activation_backward", "dy and the saved tensor");
  with_compute(dy, "activation_backward", [&](auto* gradient) {
    using T = Element<decltype(gradient)>;
    using M = typename MathFor<T>::type;
    const auto run = [&](auto f) { elementwise(*this, gradient, saved.as<T>(), dx.as<T>(), dy.numel(), f); };
    switch (act) {
      case Activation::none:
        return run(Backward<slope_none<M>>{});
      case Activation::gelu:
        return run(Backward<slope_gelu<M>>{});
      case Activation::gelu_tanh:
        return run(Backward<slope_gelu_tanh<M>>{});
      case Activation::relu2:
        return run(Backward<slope_relu2<M>>{});
      case Activation::sigmoid:
        return run(Backward<slope_sigmoid<M>>{});
      case Activation::relu:
        return run(Backward<slope_relu<M>>{});
    }
    throw std::logic_error("activation_backward: unknown activation");
  });
}

void CudaBackend::swiglu(const Tensor& x, const Tensor& y) {
  require_halves(x, y, "swiglu");
  with_compute(x, "swiglu", [&](auto* in) {
    using T = Element<decltype(in)>;
    const SwigluArgs<T> p{nullptr, in, y.as<T>(), nullptr, y.rows(), y.cols()};
    launch_swiglu(*this, p, swiglu_kernel<T, kPack<T>, std::uint32_t>, swiglu_kernel<T, 1, std::int64_t>);
  });
}

void CudaBackend::swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) {
  require_halves(x, dy, "swiglu_backward");
  require_same(x, dx, "swiglu_backward", "x and dx");
  with_compute(x, "swiglu_backward", [&](auto* in) {
    using T = Element<decltype(in)>;
    const SwigluArgs<T> p{dy.as<T>(), in, nullptr, dx.as<T>(), dy.rows(), dy.cols()};
    launch_swiglu(*this, p, swiglu_backward_kernel<T, kPack<T>, std::uint32_t>,
                  swiglu_backward_kernel<T, 1, std::int64_t>);
  });
}

void CudaBackend::add(const Tensor& a, const Tensor& b, const Tensor& y) {
  require_compute(a, "add", "a");
  require_same(a, b, "add", "a and b");
  require_same(a, y, "add", "a and y");
  with_compute(a, "add", [&](auto* left) {
    using T = Element<decltype(left)>;
    elementwise(*this, left, b.as<T>(), y.as<T>(), a.numel(), Sum{});
  });
}

void CudaBackend::scale(const Tensor& x, double factor, const Tensor& y) {
  require_compute(x, "scale", "x");
  require_same(x, y, "scale", "x and y");
  with_compute(x, "scale", [&](auto* in) {
    using T = Element<decltype(in)>;
    elementwise(*this, in, static_cast<T*>(nullptr), y.as<T>(), x.numel(),
                Scaled{static_cast<float>(factor)});
  });
}

}  // namespace spectrain
