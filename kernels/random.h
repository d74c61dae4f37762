#pragma once

#include <cstdint>

// Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy
// as 1, 2, 3", SC 2011). A number is a pure function of (seed, stream, counter), so it does not depend on
// threads, ranks, micro-batches or on what was drawn before. Everything here is host and device code built
// only from integer operations and IEEE +, *, fma, sqrt, so that every backend produces the same bits.

#ifdef __CUDACC__
#define SPECTRAIN_HD __host__ __device__
#else
#define SPECTRAIN_HD
#endif

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
  std::uint32_t c2 = static_cast<std::uint32_t>(key.stream), c3 = static_cast<std::uint32_t>(key.stream >> 32);
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
SPECTRAIN_HD inline float uniform_from(std::uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// A stream number from a name (FNV-1a, 64 bit).
inline std::uint64_t stream_of(const char* name) {
  std::uint64_t h = 0xcbf29ce484222325ull;
  for (; *name; ++name) h = (h ^ static_cast<unsigned char>(*name)) * 0x100000001b3ull;
  return h;
}

}  // namespace spectrain
