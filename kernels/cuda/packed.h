#pragma once

#include "kernels/cuda/convert.h"

// P neighbouring elements in as few registers as hold them, and what is computed with: floats. Only for .cu
// files.

namespace spectrain {

template <class T, int P>
class Packed {
 public:
  __device__ static Packed load(const T* p) {  // p aligned to P elements, up to 16 bytes
    Packed x;
    x.pack_ = *reinterpret_cast<const Pack<T, P>*>(p);
    return x;
  }
  __device__ void store(T* p) const { *reinterpret_cast<Pack<T, P>*>(p) = pack_; }
  __device__ float at(int k) const { return widen(pack_.v[k]); }
  __device__ void set(const float (&x)[P]) {
#pragma unroll
    for (int k = 0; k < P; ++k) pack_.v[k] = narrow<T>(x[k]);
  }
  __device__ void forget_floats(std::uint32_t) {}

 private:
  Pack<T, P> pack_{};
};

// Two bf16 share a register. Handed out one by one the compiler would keep each in its own.
template <int P>
requires(P % 2 == 0) class Packed<bf16, P> {
  using Words = Pack<std::uint32_t, P / 2>;

 public:
  __device__ static Packed load(const bf16* p) {
    Packed x;
#ifdef __CUDA_ARCH__
    x.words_ = *reinterpret_cast<const Words*>(p);
#else
    memcpy(&x.words_, p, sizeof(Words));  // to C++ words are no bf16
#endif
    return x;
  }
  __device__ void store(bf16* p) const {
#ifdef __CUDA_ARCH__
    *reinterpret_cast<Words*>(p) = words_;
#else
    memcpy(static_cast<void*>(p), &words_, sizeof(Words));
#endif
  }
  __device__ float at(int k) const {
    const std::uint32_t word = words_.v[k / 2];
    return __uint_as_float(k % 2 == 0 ? word << 16 : word & 0xffff0000u);
  }
  __device__ void set(const float (&x)[P]) {
#pragma unroll
    for (int k = 0; k < P; k += 2) words_.v[k / 2] = narrowed(x[k], x[k + 1]);
  }
  // Gives the compiler other words, as far as it knows, though `zero` is 0: it would keep the floats it made
  // of them, two registers for one, until they are needed again, and fewer warps would fit. Made anew they
  // cost one instruction for an element, this half of one.
  __device__ void forget_floats(std::uint32_t zero) {
#pragma unroll
    for (int k = 0; k < P / 2; ++k) words_.v[k] ^= zero;
  }

 private:
  __device__ static std::uint32_t narrowed(float low, float high) {
#ifdef __CUDA_ARCH__
    std::uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return bf16(low).bits | static_cast<std::uint32_t>(bf16(high).bits) << 16;
#endif
  }
  Words words_{};
};

// N neighbouring floats of a vector of parameters, in accesses of 16 bytes where N allows; p is aligned to
// that.
template <int N>
__device__ inline void load_floats(const float* p, float (&out)[N]) {
  constexpr int kOnce = N < 4 ? N : 4;
  static_assert(N % kOnce == 0);
#pragma unroll
  for (int i = 0; i < N; i += kOnce) {
    const auto pack = *reinterpret_cast<const Pack<float, kOnce>*>(p + i);
#pragma unroll
    for (int k = 0; k < kOnce; ++k) out[i + k] = pack.v[k];
  }
}

}  // namespace spectrain
