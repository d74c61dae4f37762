#pragma once

#include <functional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/cuda/mma.h"
#include "kernels/cuda/wgmma.h"

// Products of a warpgroup (wgmma.h) whose left factor is in registers and whose right factor lies as it is,
// [k, n], rows of n: what weights times values are. Only for .cu files.

namespace spectrain {

// A right factor [16, n]: rows (of k) of one or more slabs, 64 columns in each, slabs `slab_bytes` apart. A
// later k of 16 is 16 rows of a slab further. The fields of slab_descriptor(), but the leading offset leads
// to the next 64 columns and the other one to the next 8 rows.
__device__ inline std::uint64_t rows_descriptor(const void* slab, std::int64_t slab_bytes) {
  return (slab_descriptor(slab) & ~(std::uint64_t{0x3fff} << 16)) |
         static_cast<std::uint64_t>(slab_bytes >> 4) << 16;
}

#ifdef SPECTRAIN_EMULATED_CUDA
namespace emulator {

// The products of this header, done when they are waited for: beside the queue of wgmma.h and in step with
// it.
struct LateProducts {
  struct Product {
    std::function<void()> multiply;
    int group;
  };
  std::vector<Product> products;
  int groups = 0;  // committed
};
inline LateProducts& late_products() {
  static std::unordered_map<const Lane*, LateProducts> queues;
  return queues[current];
}
inline void multiply_later(std::function<void()> multiply) {
  LateProducts& late = late_products();
  late.products.push_back({std::move(multiply), late.groups});
}
inline void wait_for_products(int open) {
  LateProducts& late = late_products();
  std::erase_if(late.products, [&](const LateProducts::Product& p) {
    if (p.group >= late.groups - open) return false;
    p.multiply();
    return true;
  });
}

struct LeftFactors {
  std::uint32_t lanes[kWarp][4];
};
template <int N8>
void multiply_registers(float (*c)[4], const LeftFactors& a, std::uint64_t b) {
  const int g = current->lane / 4, t = current->lane % 4;
  const std::uint64_t start = (b & 0x3fffu) << 4, slab = (b >> 16 & 0x3fffu) << 4,
                      eight = (b >> 32 & 0x3fffu) << 4;
  for (int j = 0; j < N8; ++j)
    for (int i = 0; i < 4; ++i)
      for (int k = 0; k < 16; ++k) {
        const int column = 8 * j + 2 * t + i % 2;
        std::uint64_t address = start + static_cast<std::uint64_t>(column / 64) * slab +
                                static_cast<std::uint64_t>(k / 8) * eight +
                                static_cast<std::uint64_t>(k % 8) * 128 +
                                static_cast<std::uint64_t>(column % 64) * 2;
        address ^= ((address >> 7) & 7u) << 4;
        assert(address + 2 <= dynamic_shared_bytes());
        bf16 x;
        std::memcpy(&x.bits, static_cast<const char*>(dynamic_shared_memory()) + address, 2);
        c[j][i] +=
            from_bits<bf16>(a.lanes[4 * g + k % 8 / 2][i / 2 + 2 * (k / 8)], k & 1) * static_cast<float>(x);
      }
}

// c[64,64] (+)= a[64,16] . b[64,16]^T
inline void multiply_slabs(float (*c)[4], std::uint64_t a, std::uint64_t b, bool add) {
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp, g = current->lane / 4,
            t = current->lane % 4;
  for (int j = 0; !add && j < 8; ++j)
    for (int i = 0; i < 4; ++i) c[j][i] = 0;
  for (int k = 0; k < 16; ++k) {
    const float upper = slab_element(a, 16 * warp + g, k, false),
                lower = slab_element(a, 16 * warp + g + 8, k, false);
    for (int j = 0; j < 8; ++j)
      for (int i = 0; i < 2; ++i) {
        const float x = slab_element(b, 8 * j + 2 * t + i, k, false);
        c[j][i] += upper * x;
        c[j][2 + i] += lower * x;
      }
  }
}

}  // namespace emulator
#endif

// wgmma_commit() and wgmma_wait() for kernels that use products of this header.
__device__ inline void products_commit() {
  wgmma_commit();
#ifdef SPECTRAIN_EMULATED_CUDA
  ++emulator::late_products().groups;
#endif
}
template <int open>
__device__ inline void products_wait() {
  wgmma_wait<open>();
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::wait_for_products(open);
#endif
}

// c[64,n] += a[64,16] . b[16,n] of a warpgroup, n = 64 or 128, bf16; a: fragments as in mma.h, of the warp's
// 16 rows; b: rows_descriptor(). Neither c nor a may be touched before
// products_wait().
__device__ inline void wgmma_registers(float (&c)[8][4], const std::uint32_t (&a)[4], std::uint64_t b) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::LeftFactors factors;
  emulator::gather(a, sizeof(a), factors.lanes);
  emulator::multiply_later([&c, factors, b] { emulator::multiply_registers<8>(c, factors, b); });
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
      : SPECTRAIN_WGMMA_ROW(0), SPECTRAIN_WGMMA_ROW(1), SPECTRAIN_WGMMA_ROW(2), SPECTRAIN_WGMMA_ROW(3),
        SPECTRAIN_WGMMA_ROW(4), SPECTRAIN_WGMMA_ROW(5), SPECTRAIN_WGMMA_ROW(6), SPECTRAIN_WGMMA_ROW(7)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#else
  __trap();  // made for another device: only code for sm_90a has these instructions
#endif
}
__device__ inline void wgmma_registers(float (&c)[16][4], const std::uint32_t (&a)[4], std::uint64_t b) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::LeftFactors factors;
  emulator::gather(a, sizeof(a), factors.lanes);
  emulator::multiply_later([&c, factors, b] { emulator::multiply_registers<16>(c, factors, b); });
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
      "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "
      "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "
      "%59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
      : SPECTRAIN_WGMMA_ROW(0), SPECTRAIN_WGMMA_ROW(1), SPECTRAIN_WGMMA_ROW(2), SPECTRAIN_WGMMA_ROW(3),
        SPECTRAIN_WGMMA_ROW(4), SPECTRAIN_WGMMA_ROW(5), SPECTRAIN_WGMMA_ROW(6), SPECTRAIN_WGMMA_ROW(7),
        SPECTRAIN_WGMMA_ROW(8), SPECTRAIN_WGMMA_ROW(9), SPECTRAIN_WGMMA_ROW(10), SPECTRAIN_WGMMA_ROW(11),
        SPECTRAIN_WGMMA_ROW(12), SPECTRAIN_WGMMA_ROW(13), SPECTRAIN_WGMMA_ROW(14), SPECTRAIN_WGMMA_ROW(15)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#else
  __trap();  // made for another device: only code for sm_90a has these instructions
#endif
}

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define SPECTRAIN_WGMMA_NEW_ROW(j) "=f"(c[j][0]), "=f"(c[j][1]), "=f"(c[j][2]), "=f"(c[j][3])
#define SPECTRAIN_WGMMA_M64N64K16(add, ...)                                                   \
  asm volatile(                                                                               \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "                                 \
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, "     \
      "%18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, " add \
      ", 1, 1, 0, 0;"                                                                         \
      : __VA_ARGS__                                                                           \
      : "l"(a), "l"(b))
#endif

// c[64,64] (+)= a[64,16] . b[64,16]^T of a warpgroup, bf16, both slab_descriptor(): wgmma_m64n128k16() for
// half as many columns, and c may hold anything when not `add`: to set it to 0 would keep the compiler from
// starting a product beside another.
template <bool add>
__device__ inline void wgmma_m64n64k16(float (&c)[8][4], std::uint64_t a, std::uint64_t b) {
#ifdef SPECTRAIN_EMULATED_CUDA
  emulator::multiply_later([&c, a, b] { emulator::multiply_slabs(c, a, b, add); });
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  if constexpr (add)
    SPECTRAIN_WGMMA_M64N64K16("1", SPECTRAIN_WGMMA_ROW(0), SPECTRAIN_WGMMA_ROW(1), SPECTRAIN_WGMMA_ROW(2),
                              SPECTRAIN_WGMMA_ROW(3), SPECTRAIN_WGMMA_ROW(4), SPECTRAIN_WGMMA_ROW(5),
                              SPECTRAIN_WGMMA_ROW(6), SPECTRAIN_WGMMA_ROW(7));
  else
    SPECTRAIN_WGMMA_M64N64K16("0", SPECTRAIN_WGMMA_NEW_ROW(0), SPECTRAIN_WGMMA_NEW_ROW(1),
                              SPECTRAIN_WGMMA_NEW_ROW(2), SPECTRAIN_WGMMA_NEW_ROW(3),
                              SPECTRAIN_WGMMA_NEW_ROW(4), SPECTRAIN_WGMMA_NEW_ROW(5),
                              SPECTRAIN_WGMMA_NEW_ROW(6), SPECTRAIN_WGMMA_NEW_ROW(7));
#else
  __trap();  // made for another device: only code for sm_90a has these instructions
#endif
}

}  // namespace spectrain
