#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/tensor.h"

// What kernels share. Only for .cu files.

namespace spectrain {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;

// The block's dynamic shared memory, aligned to 1024 bytes.
__device__ inline void* dynamic_shared() {
#ifdef SPECTRAIN_EMULATED_CUDA
  return emulator::dynamic_shared_memory();
#else
  extern __shared__ __align__(1024) unsigned char spectrain_shared[];
  return spectrain_shared;
#endif
}

// N neighbouring elements, moved by one instruction when they are 4, 8 or 16 bytes and aligned to that.
template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T v[N];
};
template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));  // of 16 bytes, the widest

template <class T>
__device__ inline Pack<T, kPack<T>> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T, kPack<T>>*>(p);
}
template <class T>
__device__ inline void store_pack(T* p, const Pack<T, kPack<T>>& x) {
  *reinterpret_cast<Pack<T, kPack<T>>*>(p) = x;
}
// Whether rows of `cols` elements that begin at p can be read in packs.
template <class T>
inline bool packable(const T* p, std::int64_t cols) {
  return reinterpret_cast<std::uintptr_t>(p) % 16 == 0 && cols % kPack<T> == 0;
}

template <class T>
__device__ inline T warp_sum(T x) {  // every lane gets the sum, always added in the same order
  for (int k = kWarp / 2; k > 0; k /= 2) x += __shfl_xor_sync(kWholeWarp, x, k);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int k = kWarp / 2; k > 0; k /= 2) x = fmaxf(x, __shfl_xor_sync(kWholeWarp, x, k));
  return x;
}

// Of all threads of a block of whole warps, at most 1024; `store` is shared memory of 32 T that may be used
// again after the next __syncthreads(). Every thread gets the result.
template <class T>
__device__ inline T block_sum(T x, T* store) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_sum(x);
  if (lane == 0) store[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? store[lane] : T(0));
}
__device__ inline float block_max(float x, float* store) {
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  x = warp_max(x);
  if (lane == 0) store[warp] = x;
  __syncthreads();
  return warp_max(lane < warps ? store[lane] : -INFINITY);
}

// Loops over [0, n) by all threads of a one-dimensional grid.
#define SPECTRAIN_GRID_LOOP(i, n)                                                                  \
  for (std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < (n); \
       i += static_cast<std::int64_t>(gridDim.x) * blockDim.x)

}  // namespace spectrain
