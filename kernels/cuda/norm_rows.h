#pragma once

#include <initializer_list>

#include "kernels/cuda/packed.h"

// What the norms' kernels share: a row that lies in the registers of the threads that work at it together, a
// warp or a whole block, and sums over those threads. Only for .cu files.

namespace spectrain {

// Thread t of a team holds the packs t, t + threads, t + 2 threads ... of P elements.
template <class T, int P, int N, bool kBlock>
struct Team {
  using Element = Packed<T, P>;
  using Row = Element[N];

  int thread, threads;
  std::int64_t packs;  // of a row
  float (*store)[2][kWarp];
  int phase = 0;

  // `store`: shared memory for the sums, used by teams that are blocks.
  __device__ Team(std::int64_t cols, float (*s)[2][kWarp])
      : thread(static_cast<int>(threadIdx.x) % (kBlock ? 1024 : kWarp)),
        threads(kBlock ? static_cast<int>(blockDim.x) : kWarp),
        packs(cols / P),
        store(s) {}
  __device__ static int teams_in_block() { return kBlock ? 1 : static_cast<int>(blockDim.x) / kWarp; }
  __device__ static int number() { return kBlock ? 0 : static_cast<int>(threadIdx.x) / kWarp; }

  // body(i, column) for the packs this thread holds.
  template <class Body>
  __device__ void for_each(Body body) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int at = thread + i * threads;
      if (at < packs) body(i, std::int64_t{at} * P);
    }
  }
  __device__ void load(const T* x, Row& row) const {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int at = thread + i * threads;
      row[i] = at < packs ? Element::load(x + std::int64_t{at} * P) : Element{};
    }
  }
  __device__ static void forget(Row& row, std::uint32_t zero) {
#pragma unroll
    for (int i = 0; i < N; ++i) row[i].forget_floats(zero);
  }

  // Sums over the team, given to every thread. Shared memory is used by turns, so that one barrier is enough:
  // who writes here again has passed the next sum's barrier, and so has everybody who read this one.
  __device__ float sum(float x) {
    float ignored = 0;
    sums(x, ignored);
    return x;
  }
  __device__ void sums(float& x, float& y) {
    x = warp_sum(x);
    y = warp_sum(y);
    if constexpr (kBlock) {
      const int warp = thread / kWarp, lane = thread % kWarp, warps = threads / kWarp;
      float(&now)[2][kWarp] = store[phase];
      phase ^= 1;
      if (lane == 0) {
        now[0][warp] = x;
        now[1][warp] = y;
      }
      __syncthreads();
      x = warp_sum(lane < warps ? now[0][lane] : 0.0f);
      y = warp_sum(lane < warps ? now[1][lane] : 0.0f);
    }
  }
};

// In how many threads a row of `packs` packs lies with `each` to a thread: whole warps.
inline std::int64_t threads_for(std::int64_t packs, std::int64_t each) {
  return (packs + each * kWarp - 1) / (each * kWarp) * kWarp;
}

// Whether rows of `cols` elements can be read in packs: every one of these begins at a multiple of 16 bytes
// (empty ones do), x and y hold T, the vectors float.
template <class T>
bool all_packable(std::int64_t cols, std::initializer_list<const void*> rows,
                  std::initializer_list<const float*> vectors) {
  for (const void* p : rows)
    if (!packable(static_cast<const T*>(p), cols)) return false;
  for (const float* p : vectors)
    if (!packable(p, 0)) return false;
  return true;
}

}  // namespace spectrain
