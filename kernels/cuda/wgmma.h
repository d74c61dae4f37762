#pragma once

#include <cstdint>
#include <cstring>
#include <unordered_map>
#include <vector>

#include "kernels/cuda/device.h"

// The tensor cores' products of one warpgroup (wgmma, sm_90a): four neighbouring warps, the first with a
// number divisible by four, multiply matrices that lie in shared memory and get the result in registers. They
// run beside the program until it waits for them. Each function has a twin for the emulated GPU, where a
// product is done when it is waited for, and not before: what overwrites its operands too early is seen.
// Only for .cu files.
//
// Operands are [rows, 64] slabs of 16-bit elements, K along the row: a row is 128 bytes, eight rows make an
// atom of 1024 bytes, and slabs begin at multiples of 1024. Within an atom the 16-byte chunk c of row r lies
// at r * 128 + (c ^ r) * 16 (the hardware's 128-byte swizzle), so that neither writing rows nor the tensor
// core's reading of eight rows meets a bank twice.

namespace spectrain {

constexpr int kSlabCols = 64;           // elements of a row
constexpr int kSlabRowBytes = 128;      // their bytes
constexpr int kWarpgroup = 4 * kWarp;   // threads
constexpr int kWgmmaRows = 64;          // of the result, 16 to each warp
constexpr std::int64_t kSlabStep = 32;  // bytes from one k of 16 to the next

// Where chunk `chunk` (16 bytes, eight elements) of row `row` lies in a slab, in bytes.
__device__ inline int slab_offset(int row, int chunk) {
  return row * kSlabRowBytes + ((chunk ^ (row & 7)) << 4);
}

// What the instruction is told about an operand: bits 0-13 the address / 16, 16-29 the leading offset (not
// used with this swizzle; 1), 32-45 the bytes from an atom to the next / 16, 62-63 the swizzle (1: 128
// bytes). A later k within the slab is found kSlabStep bytes on: the swizzle works on address bits.
__device__ inline std::uint64_t slab_descriptor(const void* slab) {
#ifdef SPECTRAIN_EMULATED_CUDA
  const std::uint64_t address = static_cast<std::uint64_t>(
      static_cast<const char*>(slab) - static_cast<const char*>(emulator::dynamic_shared_memory()));
#elif defined(__CUDA_ARCH__)
  const std::uint64_t address = __cvta_generic_to_shared(slab);
#else
  const std::uint64_t address = 0;
#endif
  return ((address & 0x3ffffu) >> 4) | std::uint64_t{1} << 16 | std::uint64_t{1024 >> 4} << 32 |
         std::uint64_t{1} << 62;
}

#ifdef SPECTRAIN_EMULATED_CUDA
namespace emulator {

struct Wgmma {
  float (*acc)[4];
  std::uint64_t a, b;
  bool half;  // f16, else bf16
  int group;
};
struct WgmmaQueue {
  std::vector<Wgmma> products;
  int groups = 0;  // committed
};
inline WgmmaQueue& wgmma_queue() {
  static std::unordered_map<const Lane*, WgmmaQueue> queues;
  return queues[current];
}

// Element (row, k) of the operand, as the hardware finds it: by address bits, the swizzle included.
inline float slab_element(std::uint64_t descriptor, int row, int k, bool half) {
  const std::uint64_t start = (descriptor & 0x3fffu) << 4, atom = ((descriptor >> 32) & 0x3fffu) << 4;
  std::uint64_t address = start + static_cast<std::uint64_t>(row / 8) * atom +
                          static_cast<std::uint64_t>(row % 8) * 128 + static_cast<std::uint64_t>(k) * 2;
  if (descriptor >> 62 == 1) address ^= ((address >> 7) & 7u) << 4;
  assert(address + 2 <= dynamic_shared_bytes());
  std::uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(dynamic_shared_memory()) + address, 2);
  if (half) {
    f16 x;
    x.bits = bits;
    return static_cast<float>(x);
  }
  bf16 x;
  x.bits = bits;
  return static_cast<float>(x);
}

// This thread's elements of the result.
inline void multiply(const Wgmma& w) {
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp, lane = current->lane;
  float a[2][16];
  for (int half_rows = 0; half_rows < 2; ++half_rows)
    for (int k = 0; k < 16; ++k)
      a[half_rows][k] = slab_element(w.a, 16 * warp + lane / 4 + 8 * half_rows, k, w.half);
  for (int j = 0; j < 16; ++j)
    for (int c = 0; c < 2; ++c)
      for (int k = 0; k < 16; ++k) {
        const float b = slab_element(w.b, 8 * j + 2 * (lane % 4) + c, k, w.half);
        w.acc[j][c] += a[0][k] * b;
        w.acc[j][2 + c] += a[1][k] * b;
      }
}

inline void wgmma_wait(int open) {
  WgmmaQueue& q = wgmma_queue();
  std::erase_if(q.products, [&](const Wgmma& w) {
    if (w.group >= q.groups - open) return false;
    multiply(w);
    return true;
  });
}

}  // namespace emulator
#endif

// Before the first product, and before products whose accumulators this thread has touched since.
__device__ inline void wgmma_fence() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
// Ends a group: all products issued since the last one.
__device__ inline void wgmma_commit() {
#ifdef SPECTRAIN_EMULATED_CUDA
  ++emulator::wgmma_queue().groups;
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Returns when at most the last `open` groups still run. Until then their accumulators may not be touched.
template <int open>
__device__ inline void wgmma_wait() {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::wgmma_wait(open);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(open) : "memory");
#endif
}
// What this thread has written to shared memory by ordinary stores or cp.async is seen by products issued
// behind a barrier after this: they read through another path.
__device__ inline void fence_for_wgmma() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define SPECTRAIN_WGMMA_ROW(j) "+f"(c[j][0]), "+f"(c[j][1]), "+f"(c[j][2]), "+f"(c[j][3])
#define SPECTRAIN_WGMMA_M64N128K16(type)                                                                   \
  asm volatile(                                                                                            \
      "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                         \
      " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "  \
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "    \
      "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "    \
      "%59, %60, %61, %62, %63}, %64, %65, 1, 1, 1, 0, 0;"                                                 \
      : SPECTRAIN_WGMMA_ROW(0), SPECTRAIN_WGMMA_ROW(1), SPECTRAIN_WGMMA_ROW(2), SPECTRAIN_WGMMA_ROW(3),    \
        SPECTRAIN_WGMMA_ROW(4), SPECTRAIN_WGMMA_ROW(5), SPECTRAIN_WGMMA_ROW(6), SPECTRAIN_WGMMA_ROW(7),    \
        SPECTRAIN_WGMMA_ROW(8), SPECTRAIN_WGMMA_ROW(9), SPECTRAIN_WGMMA_ROW(10), SPECTRAIN_WGMMA_ROW(11),  \
        SPECTRAIN_WGMMA_ROW(12), SPECTRAIN_WGMMA_ROW(13), SPECTRAIN_WGMMA_ROW(14), SPECTRAIN_WGMMA_ROW(15) \
      : "l"(a), "l"(b))
#endif

// c[64,128] += a[64,16] . b[128,16]^T of a warpgroup, summed in float32. c[j] is the fragment (mma.h) of
// columns 8j .. 8j+7 of the warp's 16 rows: c[j][0], c[j][1]: row lane/4, columns 2 (lane%4) and the next;
// c[j][2], c[j][3]: row lane/4 + 8. The accumulators are the program's again after wgmma_wait().
template <class T>
__device__ inline void wgmma_m64n128k16(float (&c)[16][4], std::uint64_t a, std::uint64_t b) {
  static_assert(std::is_same_v<T, bf16> || std::is_same_v<T, f16>);
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::WgmmaQueue& q = emulator::wgmma_queue();
  q.products.push_back({c, a, b, std::is_same_v<T, f16>, q.groups});
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (std::is_same_v<T, f16>)
    SPECTRAIN_WGMMA_M64N128K16("f16");
  else
    SPECTRAIN_WGMMA_M64N128K16("bf16");
#else
  __trap();  // made for another device: only code for sm_90a has these instructions
#endif
}

}  // namespace spectrain
