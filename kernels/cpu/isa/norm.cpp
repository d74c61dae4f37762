#include "kernels/cpu/isa/norm.h"

#include <cmath>

#include "kernels/cpu/isa/vector_math.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

using u16 = std::uint16_t;

// One function for norm and add_norm, so that the two agree bit for bit: the sum is rounded and stored, then
// read back (from the nearest cache) exactly as norm reads x.
template <class T, bool Layer>
void forward(const NormForward& p, std::int64_t begin, std::int64_t end) {
  const std::int64_t C = p.cols;
  const float per_column = 1.0f / static_cast<float>(C);
  const float *gain = p.gain, *bias = p.bias;
  for (std::int64_t r = begin; r < end; ++r) {
    T* x = static_cast<T*>(p.x) + r * C;
    T* y = static_cast<T*>(p.y) + r * C;
    if (p.a) {
      const T *a = static_cast<const T*>(p.a) + r * C, *b = static_cast<const T*>(p.b) + r * C;
#pragma omp simd
      for (std::int64_t c = 0; c < C; ++c) store(x + c, load(a + c) + load(b + c));
    }
    float mean = 0;
    if constexpr (Layer) {
#pragma omp simd reduction(+ : mean)
      for (std::int64_t c = 0; c < C; ++c) mean += load(x + c);
      mean *= per_column;
    }
    // The variance from the deviations, not from the mean of squares: that one cancels when |mean| >>
    // deviation.
    float squares = 0;
#pragma omp simd reduction(+ : squares)
    for (std::int64_t c = 0; c < C; ++c) {
      const float d = load(x + c) - mean;
      squares += d * d;
    }
    const float rstd = 1.0f / std::sqrt(squares * per_column + p.eps);
    if (Layer && p.mean) p.mean[r] = mean;
    if (p.rstd) p.rstd[r] = rstd;
    if (gain && bias) {
#pragma omp simd
      for (std::int64_t c = 0; c < C; ++c) store(y + c, (load(x + c) - mean) * rstd * gain[c] + bias[c]);
    } else if (gain) {
#pragma omp simd
      for (std::int64_t c = 0; c < C; ++c) store(y + c, (load(x + c) - mean) * rstd * gain[c]);
    } else if (bias) {
#pragma omp simd
      for (std::int64_t c = 0; c < C; ++c) store(y + c, (load(x + c) - mean) * rstd + bias[c]);
    } else {
#pragma omp simd
      for (std::int64_t c = 0; c < C; ++c) store(y + c, (load(x + c) - mean) * rstd);
    }
  }
}

// u = (x - mean) rstd, g = dy gain:  dx = rstd (g - mean(g) - u mean(g u)), without mean(g) for rms. Memory
// is read once: the second loop of a row finds it in the nearest cache.
template <class T, bool Layer, bool Gain, bool Parameters>
void backward_rows(const NormBackward& p, float* dgain, float* dbias, std::int64_t begin, std::int64_t end) {
  const std::int64_t C = p.cols;
  const float per_column = 1.0f / static_cast<float>(C);
  const float* gain = p.gain;
  for (std::int64_t r = begin; r < end; ++r) {
    const T *dy = static_cast<const T*>(p.dy) + r * C, *x = static_cast<const T*>(p.x) + r * C;
    T* dx = static_cast<T*>(p.dx) + r * C;
    const float mean = Layer ? p.mean[r] : 0.0f, rstd = p.rstd[r];
    float sum_g = 0, sum_gu = 0;
#pragma omp simd reduction(+ : sum_g, sum_gu)
    for (std::int64_t c = 0; c < C; ++c) {
      const float d = load(dy + c), u = (load(x + c) - mean) * rstd;
      const float g = Gain ? d * gain[c] : d;
      if (Layer) sum_g += g;
      sum_gu += g * u;
      if (Parameters) {
        dgain[c] += d * u;
        dbias[c] += d;
      }
    }
    const float k1 = sum_g * per_column, k2 = sum_gu * per_column;
    if (p.accumulate) {
#pragma omp simd
      for (std::int64_t c = 0; c < C; ++c) {
        const float g = Gain ? load(dy + c) * gain[c] : load(dy + c), u = (load(x + c) - mean) * rstd;
        store(dx + c, load(dx + c) + rstd * (g - k1 - u * k2));
      }
    } else {
#pragma omp simd
      for (std::int64_t c = 0; c < C; ++c) {
        const float g = Gain ? load(dy + c) * gain[c] : load(dy + c), u = (load(x + c) - mean) * rstd;
        store(dx + c, rstd * (g - k1 - u * k2));
      }
    }
  }
}

template <class T, bool Layer>
void backward(const NormBackward& p, float* dgain, float* dbias, std::int64_t begin, std::int64_t end) {
  const auto rows =
      p.gain ? (dgain ? backward_rows<T, Layer, true, true> : backward_rows<T, Layer, true, false>)
             : (dgain ? backward_rows<T, Layer, false, true> : backward_rows<T, Layer, false, false>);
  rows(p, dgain, dbias, begin, end);
}

}  // namespace

const NormTable norm_table = {
    {{forward<float, true>, forward<float, false>}, {forward<u16, true>, forward<u16, false>}},
    {{backward<float, true>, backward<float, false>}, {backward<u16, true>, backward<u16, false>}},
};

}  // namespace spectrain::SPECTRAIN_ISA
