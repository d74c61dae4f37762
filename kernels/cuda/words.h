#pragma once

#include <cstring>

#include "kernels/cuda/device.h"

// Neighbouring elements moved by one instruction each time. Of a struct of elements the compiler sometimes
// makes an access for each element, and of 16-bit elements a register for each; of CUDA's own vectors it does
// not. Only for .cu files.

namespace spectrain {

template <std::size_t bytes>
struct WordsOf;
template <>
struct WordsOf<2> {
  using type = unsigned short;
};
template <>
struct WordsOf<4> {
  using type = unsigned;
};
template <>
struct WordsOf<8> {
  using type = uint2;
};
template <>
struct WordsOf<16> {
  using type = uint4;
};
struct alignas(16) TwoWords {
  uint4 a, b;
};
template <>
struct WordsOf<32> {
  using type = TwoWords;
};
template <class T, int N>
using Words = typename WordsOf<sizeof(T) * N>::type;

template <class T, int N>
__device__ inline Pack<T, N> to_pack(Words<T, N> words) {
  Pack<T, N> x;
  memcpy(static_cast<void*>(&x), &words, sizeof(x));
  return x;
}

// N elements at p, a multiple of their size (16 bytes at most).
template <int N, class T>
__device__ inline Words<T, N> load_words(const T* p) {
  return *reinterpret_cast<const Words<T, N>*>(p);
}
template <int N, class T>
__device__ inline Pack<T, N> load_some(const T* p) {
  return to_pack<T, N>(load_words<N>(p));
}
// To global memory. Each as the one instruction it is meant to be: a plain assignment in an unrolled loop was
// seen to become a store for each word.
#ifdef __CUDA_ARCH__
__device__ inline void store_words(unsigned short* p, unsigned short x) { *p = x; }
__device__ inline void store_words(unsigned* p, unsigned x) { *p = x; }
__device__ inline void store_words(uint2* p, uint2 x) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(x.x), "r"(x.y)
               : "memory");
}
__device__ inline void store_words(uint4* p, uint4 x) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(x.x),
               "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}
#else
template <class W>
__device__ inline void store_words(W* p, const W& x) {
  *p = x;
}
#endif
__device__ inline void store_words(TwoWords* p, const TwoWords& x) {
  store_words(&p->a, x.a);
  store_words(&p->b, x.b);
}
template <class T, int N>
__device__ inline void store_some(T* p, const Pack<T, N>& x) {
  Words<T, N> words;
  memcpy(&words, &x, sizeof(x));
  store_words(reinterpret_cast<Words<T, N>*>(p), words);
}

template <class T>
inline bool aligned_for(int n, const T* p) {
  return reinterpret_cast<std::uintptr_t>(p) % (static_cast<std::size_t>(n) * sizeof(T)) == 0;
}

}  // namespace spectrain
