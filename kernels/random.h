#pragma once

#include <math.h>  // fmaf, sqrtf by their global names, which device code has too

#include <cstdint>
#include <cstring>

#include "kernels/host_device.h"

// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011). A number is a pure function of (seed, stream, counter), so it does not depend on
// threads, ranks, micro-batches or on what was drawn before. Everything here is host and device code built
// only from integer operations and IEEE +, *, fma, sqrt, so that every backend produces the same bits.

namespace spectrain {

struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;  // a parameter's or a purpose's own sequence: stream_of("name"), or any number
};

struct Random4 {
  std::uint32_t v[4];
};

// The four 32-bit words of block `counter`.
SPECTRAIN_HD inline Random4 philox(RandomKey key, std::uint64_t counter) {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(key.stream),
                c3 = static_cast<std::uint32_t>(key.stream >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(key.seed), k1 = static_cast<std::uint32_t>(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = 0xD2511F53ull * c0, p1 = 0xCD9E8D57ull * c2;
    const std::uint32_t n0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const std::uint32_t n2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Word `index` of the sequence (block index / 4, lane index % 4).
SPECTRAIN_HD inline std::uint32_t random_u32(RandomKey key, std::uint64_t index) {
  return philox(key, index >> 2).v[index & 3];
}
SPECTRAIN_HD inline std::uint64_t random_u64(RandomKey key, std::uint64_t index) {
  const Random4 r = philox(key, index >> 1);
  const int lane = static_cast<int>(index & 1) * 2;
  return (static_cast<std::uint64_t>(r.v[lane + 1]) << 32) | r.v[lane];
}

// Uniform in [0, 1), 24 bits.
SPECTRAIN_HD inline float uniform_from(std::uint32_t word) {
  return static_cast<float>(word >> 8) * 0x1p-24f;
}

// Two independent standard normal numbers from two words (Box and Muller 1958): sqrt(-2 ln u) (cos a, sin a)
// with u in (0, 1] of 24 bits, so |z| <= 5.77, and a in a full turn of 24 bits. The logarithm, sine and
// cosine are polynomials of our own (minimax, relative error below 1e-8, 1e-11 and 1e-12 before rounding;
// each result is good to about 2 ulp): libraries differ in the last bit. Every multiply-add is an explicit
// fmaf, and no product goes into a sum any other way, so a compiler that contracts finds nothing to contract.
struct NormalPair {
  float a, b;
};
SPECTRAIN_HD inline NormalPair normal_pair(std::uint32_t w0, std::uint32_t w1) {
  // ln u, u = n / 2^24 = 2^(e-24) (1 + f), 1 + f in [sqrt(1/2), sqrt(2))
  const float n = static_cast<float>((w0 >> 8) + 1);
  std::uint32_t bits;
  std::memcpy(&bits, &n, 4);
  const std::uint32_t e = (bits - 0x3f3504f3u) >> 23;
  bits -= e << 23;
  float m;
  std::memcpy(&m, &bits, 4);
  const float f = m - 1.0f, f2 = f * f;
  float p = -0x1.420fd8p-4f;
  p = fmaf(p, f, 0x1.07d556p-3f);
  p = fmaf(p, f, -0x1.0cdc3ep-3f);
  p = fmaf(p, f, 0x1.226d7cp-3f);
  p = fmaf(p, f, -0x1.5478e8p-3f);
  p = fmaf(p, f, 0x1.99a5a0p-3f);
  p = fmaf(p, f, -0x1.00021ep-2f);
  p = fmaf(p, f, 0x1.55554ap-2f);
  const float log_m = fmaf(f2 * f, p, fmaf(-0.5f, f2, f));
  const float log_u = fmaf(static_cast<float>(static_cast<std::int32_t>(e) - 24), 0x1.62e43p-1f, log_m);
  const float radius = sqrtf(-2.0f * log_u);
  // The angle within its quadrant, in quarter turns from the middle: x in (-1/2, 1/2).
  const float x = fmaf(static_cast<float>((w1 >> 8) & 0x3fffffu), 0x1p-22f, -0.5f + 0x1p-23f);
  const float z = x * x;
  float s = 0x1.4bc89ap-13f;
  s = fmaf(s, z, -0x1.32ca9ep-8f);
  s = fmaf(s, z, 0x1.466bbap-4f);
  s = fmaf(s, z, -0x1.4abbcep-1f);
  s = fmaf(s, z, 0x1.921fb6p+0f) * x;
  float c = -0x1.a0ee4ap-16f;
  c = fmaf(c, z, 0x1.e1e7cep-11f);
  c = fmaf(c, z, -0x1.55d3bap-6f);
  c = fmaf(c, z, 0x1.03c1f0p-2f);
  c = fmaf(c, z, -0x1.3bd3ccp+0f);
  c = fmaf(c, z, 1.0f);
  const bool odd = (w1 >> 30) & 1u, back = (w1 >> 31) & 1u;
  const float turn = back ? -radius : radius;
  return {(odd ? -s : c) * turn, (odd ? c : s) * turn};
}

// What fill_uniform and fill_normal put at element `index`: low + (high - low) u, rounded once (so `high`
// itself can appear by rounding), and mean + deviation z. One block of four words serves four elements.
SPECTRAIN_HD inline float uniform_at(RandomKey key, std::uint64_t index, float low, float high) {
  return fmaf(high - low, uniform_from(random_u32(key, index)), low);
}
SPECTRAIN_HD inline float normal_at(RandomKey key, std::uint64_t index, float mean, float deviation) {
  const Random4 r = philox(key, index >> 2);
  const NormalPair z = index & 2 ? normal_pair(r.v[2], r.v[3]) : normal_pair(r.v[0], r.v[1]);
  return fmaf(deviation, index & 1 ? z.b : z.a, mean);
}

// A stream number from a name (FNV-1a, 64 bit).
inline std::uint64_t stream_of(const char* name) {
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (; *name; ++name) h = (h ^ static_cast<unsigned char>(*name)) * 0x100000001b3ull;
  return h;
}

}  // namespace spectrain
