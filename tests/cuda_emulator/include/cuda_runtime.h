#pragma once

// Device code on the processor: every thread of a block is a fibre of one operating-system thread. A fibre
// runs until it meets a barrier or a warp operation that others have not reached; then the next one goes on.
// Only what kernels/cuda uses is here.

#include <cassert>
#include <cmath>
#include <cstring>
#include <functional>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__
#define __launch_bounds__(...)
#define __grid_constant__
#define __constant__ static const
// One block runs at a time, so a block's memory may be the program's.
#define __shared__ static

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

namespace spectrain::emulator {

struct Copy {  // to shared memory, not yet there
  void* to;
  const void* from;  // null: zeros
  int group;
};
struct Lane {  // the fibre that runs
  dim3 thread, block, block_size, grid;
  int lane = 0;
  std::vector<Copy> copies{};
  int groups = 0;  // committed
};
extern Lane* current;

// Barriers: return when all threads of the block, or the named lanes of the warp, have come.
void block_barrier();
void warp_barrier(unsigned mask);
// Hands 8 bytes to the other lanes and returns those of lane `from`; every lane of `mask` calls it.
std::uint64_t exchange(unsigned mask, std::uint64_t value, int from);
unsigned ballot(unsigned mask, bool vote);
// Each lane of the whole warp gives `bytes` bytes; all[i] is what lane i gave.
void gather(const void* own, std::size_t bytes, void* all);
// 16 bytes from global to shared memory that arrive when the lane waits for their group; until then there
// are NaNs in their place, so that neither may anybody have waited too little nor still need what was there.
void begin_copy(void* to, const void* from);
void commit_copies();
void wait_for_copies(int open);  // all groups but the last `open`
void* dynamic_shared_memory();
std::size_t dynamic_shared_bytes();

// Puts a launch into the stream. `body` is run by every thread. More than 40 KiB of dynamic shared memory
// must have been asked for: with the static part, which nobody knows here, it may be more than the 48 KiB
// that are free.
void launch(cudaStream_t stream, dim3 blocks, dim3 threads, std::size_t shared, const void* kernel,
            std::function<void()> body);
void allow_shared(const void* kernel, int bytes);
// Puts any work into the stream, as a library would.
void enqueue(cudaStream_t stream, std::function<void()> work);

template <class T>
T shuffle(unsigned mask, T value, int from) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(mask, bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

}  // namespace spectrain::emulator

#define threadIdx (::spectrain::emulator::current->thread)
#define blockIdx (::spectrain::emulator::current->block)
#define blockDim (::spectrain::emulator::current->block_size)
#define gridDim (::spectrain::emulator::current->grid)
constexpr int warpSize = 32;

inline void __syncthreads() { ::spectrain::emulator::block_barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) { ::spectrain::emulator::warp_barrier(mask); }
inline void __threadfence() {}
inline unsigned __ballot_sync(unsigned mask, bool vote) { return ::spectrain::emulator::ballot(mask, vote); }
inline int __any_sync(unsigned mask, bool vote) { return ::spectrain::emulator::ballot(mask, vote) != 0; }
inline int __all_sync(unsigned mask, bool vote) { return ::spectrain::emulator::ballot(mask, !vote) == 0; }
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
  const int lane = ::spectrain::emulator::current->lane;
  return ::spectrain::emulator::shuffle(mask, value, lane / width * width + from % width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other, int width = 32) {
  const int lane = ::spectrain::emulator::current->lane, from = lane ^ other;
  return ::spectrain::emulator::shuffle(mask, value, from / width == lane / width ? from : lane);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = ::spectrain::emulator::current->lane, from = lane + static_cast<int>(delta);
  return ::spectrain::emulator::shuffle(mask, value, from / width == lane / width ? from : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const int lane = ::spectrain::emulator::current->lane, from = lane - static_cast<int>(delta);
  return ::spectrain::emulator::shuffle(mask, value, from >= 0 && from / width == lane / width ? from : lane);
}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <class T>
T atomicMax(T* p, T value) {
  const T old = *p;
  if (value > old) *p = value;
  return old;
}
inline unsigned atomicOr(unsigned* p, unsigned value) {
  const unsigned old = *p;
  *p = old | value;
  return old;
}
inline int atomicOr(int* p, int value) {
  const int old = *p;
  *p = old | value;
  return old;
}

inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float exp2f_approximate(float x) { return std::exp2(x); }
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fdividef(float a, float b) { return a / b; }
inline unsigned __float_as_uint(float x) {
  unsigned u;
  std::memcpy(&u, &x, 4);
  return u;
}
inline float __uint_as_float(unsigned u) {
  float x;
  std::memcpy(&x, &u, 4);
  return x;
}
// Byte i of the result is byte number s_i of y|x, s_i the i-th hexadecimal digit of s (without its sign
// form).
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  const unsigned long long bytes = static_cast<unsigned long long>(y) << 32 | x;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i)
    result |= static_cast<unsigned>((bytes >> (8 * ((s >> (4 * i)) & 7u))) & 0xffu) << (8 * i);
  return result;
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  if (value > 232448 - 1024) return cudaErrorInvalidValue;  // an H100's, less the system's share
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize)
    spectrain::emulator::allow_shared(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int, std::size_t) {
  *blocks = 2;
  return cudaSuccess;
}
