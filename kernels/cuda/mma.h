#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/cuda/device.h"

// The tensor cores' products of one warp (mma.sync, sm_80 and later), the loads that bring matrices from
// shared memory into the layout they want (ldmatrix), and copies from global to shared memory that a thread
// does not wait for (cp.async). Each has a twin for the emulated GPU. Only for .cu files.
//
// Fragments. With g = lane / 4 and t = lane % 4 a lane holds, two 16-bit elements to a register, the lower
// column in the lower half:
//   a[16,16]  a[0]: row g, columns 2t, 2t+1;  a[1]: row g+8, the same;  a[2], a[3]: the same rows, columns +8
//   b[16,8]   b[0]: rows 2t, 2t+1 of column g;  b[1]: rows 2t+8, 2t+9
//   c[16,8]   c[0], c[1]: row g, columns 2t, 2t+1;  c[2], c[3]: row g+8
// So a product's result is, two registers narrowed into one, the a of the next product: c of columns 0-7 and
// of columns 8-15 give a[0], a[1] and a[2], a[3].

namespace spectrain {

#ifdef SPECTRAIN_EMULATED_CUDA
namespace emulator {

template <class T>
float from_bits(std::uint32_t pair, int which) {
  T x;
  x.bits = static_cast<std::uint16_t>(which != 0 ? pair >> 16 : pair & 0xffffu);
  return static_cast<float>(x);
}
template <class T>
std::uint32_t pair(float low, float high) {
  return static_cast<std::uint32_t>(T(high).bits) << 16 | T(low).bits;
}

template <class T>
void mma(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  struct Fragments {
    std::uint32_t a[4], b[2];
  };
  const Fragments own{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  Fragments all[kWarp];
  gather(&own, sizeof(own), all);
  const int g = current->lane / 4, t = current->lane % 4;
  for (int i = 0; i < 4; ++i) {
    const int column = 2 * t + (i & 1);
    for (int k = 0; k < 16; ++k)
      c[i] += from_bits<T>(all[4 * g + k % 8 / 2].a[i / 2 + 2 * (k / 8)], k & 1) *
              from_bits<T>(all[4 * column + k % 8 / 2].b[k / 8], k & 1);
  }
}

inline void gather_matrices(std::uint32_t (&r)[4], const void* row, bool transposed) {
  const void* rows[kWarp];
  gather(&row, sizeof(row), rows);
  const int g = current->lane / 4, t = current->lane % 4;
  for (int m = 0; m < 4; ++m) {
    std::uint16_t pair[2];
    for (int j = 0; j < 2; ++j) {
      const int from = transposed ? 2 * t + j : g, at = transposed ? g : 2 * t + j;
      assert(reinterpret_cast<std::uintptr_t>(rows[8 * m + from]) % 16 == 0);
      std::memcpy(&pair[j], static_cast<const char*>(rows[8 * m + from]) + 2 * at, 2);
    }
    std::memcpy(&r[m], pair, 4);
  }
}

}  // namespace emulator
#endif

// Four 8x8 matrices of 16-bit elements from shared memory: lane 8m + i gives the address of row i of matrix m
// (16 bytes, aligned to 16), and r[m] gets row g, columns 2t and 2t+1 of matrix m.
__device__ inline void load_matrices(std::uint32_t (&r)[4], const void* row) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::gather_matrices(r, row, false);
#elif defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}
// The same, each matrix transposed on the way: r[m] gets rows 2t and 2t+1 of column g of matrix m.
__device__ inline void load_matrices_transposed(std::uint32_t (&r)[4], const void* row) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::gather_matrices(r, row, true);
#elif defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(row)))
               : "memory");
#endif
}

// c[16,8] += a[16,16] . b[16,8], summed in float32.
__device__ inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::mma<bf16>(c, a, b0, b1);
#elif defined(__CUDA_ARCH__)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}
__device__ inline void mma_f16(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                               std::uint32_t b1) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::mma<f16>(c, a, b0, b1);
#elif defined(__CUDA_ARCH__)
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Two numbers rounded to 16 bits (to nearest, ties to even), `low` in the lower half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
#ifdef SPECTRAIN_EMULATED_CUDA
  return emulator::pair<bf16>(low, high);
#else
  std::uint32_t pair = 0;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
#endif
}
__device__ inline std::uint32_t pack_f16(float low, float high) {
#ifdef SPECTRAIN_EMULATED_CUDA
  return emulator::pair<f16>(low, high);
#else
  std::uint32_t pair = 0;
#ifdef __CUDA_ARCH__
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
#endif
  return pair;
#endif
}

// 16 bytes from global to shared memory, both aligned to 16, past the L1 cache; 16 zeros when not `there`
// (then `from` is not read, but must still be an address of the array). They lie in shared memory for the
// thread that asked once it has waited for their group, and for others after a barrier behind that.
__device__ inline void copy_async(void* to, const void* from, bool there = true) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::begin_copy(to, there ? from : nullptr);
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(to))),
               "l"(__cvta_generic_to_global(from)), "r"(there ? 16 : 0)
               : "memory");
#endif
}
// Ends a group of copies: all that this thread has asked for since the last one.
__device__ inline void copies_commit() {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::commit_copies();
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
// Returns when at most the last `open` groups of this thread are still on their way.
template <int open>
__device__ inline void copies_wait() {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::wait_for_copies(open);
#elif defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(open) : "memory");
#endif
}

}  // namespace spectrain
