#include "kernels/cpu/isa/activation.h"

#include "kernels/cpu/isa/vector_formulas.h"

// Every loop says `omp simd`: the pointers may be equal (in place) but never overlap otherwise, which the
// compiler cannot know.

namespace spectrain::SPECTRAIN_ISA {
namespace {

using Scalar = float (*)(float);
using u16 = std::uint16_t;

template <class T, Scalar F>
void forward(const void* x_, void* y_, std::int64_t n) {
  const T* x = static_cast<const T*>(x_);
  T* y = static_cast<T*>(y_);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(y + i, F(load(x + i)));
}

template <class T, Scalar Slope>
void backward(const void* dy_, const void* saved_, void* dx_, std::int64_t n) {
  const T *dy = static_cast<const T*>(dy_), *saved = static_cast<const T*>(saved_);
  T* dx = static_cast<T*>(dx_);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(dx + i, load(dy + i) * Slope(load(saved + i)));
}

template <class T>
void swiglu(const void* x_, void* y_, std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T *gate = static_cast<const T*>(x_) + r * 2 * width, *up = gate + width;
    T* y = static_cast<T*>(y_) + r * width;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) store(y + i, silu<VectorMath>(load(gate + i)) * load(up + i));
  }
}

template <class T>
void swiglu_backward(const void* dy_, const void* x_, void* dx_, std::int64_t rows, std::int64_t width) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* dy = static_cast<const T*>(dy_) + r * width;
    const T *gate = static_cast<const T*>(x_) + r * 2 * width, *up = gate + width;
    T *dgate = static_cast<T*>(dx_) + r * 2 * width, *dup = dgate + width;
#pragma omp simd
    for (std::int64_t i = 0; i < width; ++i) {
      const float d = load(dy + i), g = load(gate + i), u = load(up + i);
      const SigmoidAndSlope s = sigmoid_and_slope<VectorMath>(g);
      store(dgate + i, d * u * s.silu_slope);
      store(dup + i, d * g * s.sigmoid);
    }
  }
}

template <class T>
void add(const void* a_, const void* b_, void* y_, std::int64_t n) {
  const T *a = static_cast<const T*>(a_), *b = static_cast<const T*>(b_);
  T* y = static_cast<T*>(y_);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(y + i, load(a + i) + load(b + i));
}

template <class T>
void scale(const void* x_, float factor, void* y_, std::int64_t n) {
  const T* x = static_cast<const T*>(x_);
  T* y = static_cast<T*>(y_);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(y + i, factor * load(x + i));
}

}  // namespace

const ActivationTable activation_table = {
    {{forward<float, activate_none<VectorMath>>, forward<float, activate_gelu<VectorMath>>,
      forward<float, activate_gelu_tanh<VectorMath>>, forward<float, activate_relu2<VectorMath>>,
      forward<float, activate_sigmoid<VectorMath>>, forward<float, activate_relu<VectorMath>>},
     {forward<u16, activate_none<VectorMath>>, forward<u16, activate_gelu<VectorMath>>,
      forward<u16, activate_gelu_tanh<VectorMath>>, forward<u16, activate_relu2<VectorMath>>,
      forward<u16, activate_sigmoid<VectorMath>>, forward<u16, activate_relu<VectorMath>>}},
    {{backward<float, slope_none<VectorMath>>, backward<float, slope_gelu<VectorMath>>,
      backward<float, slope_gelu_tanh<VectorMath>>, backward<float, slope_relu2<VectorMath>>,
      backward<float, slope_sigmoid<VectorMath>>, backward<float, slope_relu<VectorMath>>},
     {backward<u16, slope_none<VectorMath>>, backward<u16, slope_gelu<VectorMath>>,
      backward<u16, slope_gelu_tanh<VectorMath>>, backward<u16, slope_relu2<VectorMath>>,
      backward<u16, slope_sigmoid<VectorMath>>, backward<u16, slope_relu<VectorMath>>}},
    {swiglu<float>, swiglu<u16>},
    {swiglu_backward<float>, swiglu_backward<u16>},
    {add<float>, add<u16>},
    {scale<float>, scale<u16>},
};

}  // namespace spectrain::SPECTRAIN_ISA
