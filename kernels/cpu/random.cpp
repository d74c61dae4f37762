#include "kernels/random.h"

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/parallel.h"
#include "kernels/stochastic_rounding.h"

// The formulas stand in random.h and give the same bits whatever instructions they are compiled to (explicit
// fma, no contraction), so this family needs no table of its own: one body, compiled for several instruction
// sets.

namespace spectrain {
namespace {

struct Fill {
  RandomKey key;
  bool normal;
  float a, b;  // low, high or mean, deviation
};

inline void put(float* p, float value) { *p = value; }
inline void put(double* p, float value) { *p = static_cast<double>(value); }
inline void put(bf16* p, float value) { *p = bf16(value); }

// Elements [begin, end); begin is a multiple of four. Blocks go through small arrays in stages, because the
// stages turn into vector code and the whole at once does not.
template <class T>
[[gnu::always_inline]] inline void fill_body(const Fill& f, T* out, std::int64_t begin, std::int64_t end) {
  constexpr std::int64_t kBlocks = 64;
  std::uint32_t words[4][kBlocks];
  float values[4][kBlocks];
  for (std::int64_t i = begin; i < end; i += 4 * kBlocks) {
    for (std::int64_t j = 0; j < kBlocks; ++j) {
      const Random4 r = philox(f.key, static_cast<std::uint64_t>(i / 4 + j));
      for (int lane = 0; lane < 4; ++lane) words[lane][j] = r.v[lane];
    }
    if (f.normal) {
      for (int lane = 0; lane < 4; lane += 2)
        for (std::int64_t j = 0; j < kBlocks; ++j) {
          const NormalPair z = normal_pair(words[lane][j], words[lane + 1][j]);
          values[lane][j] = fmaf(f.b, z.a, f.a);
          values[lane + 1][j] = fmaf(f.b, z.b, f.a);
        }
    } else {
      for (int lane = 0; lane < 4; ++lane)
        for (std::int64_t j = 0; j < kBlocks; ++j)
          values[lane][j] = fmaf(f.b - f.a, uniform_from(words[lane][j]), f.a);
    }
    const std::int64_t count = std::min(end - i, 4 * kBlocks);
    for (std::int64_t j = 0; j < count; ++j) put(out + i + j, values[j % 4][j / 4]);
  }
}

template <class T>
void fill_baseline(const Fill& f, T* out, std::int64_t begin, std::int64_t end) {
  fill_body(f, out, begin, end);
}
#if defined(__x86_64__)
template <class T>
[[gnu::target("avx2,fma"), gnu::flatten]] void fill_avx2(const Fill& f, T* out, std::int64_t begin,
                                                         std::int64_t end) {
  fill_body(f, out, begin, end);
}
#endif

template <class T>
void fill_all(int threads, const Fill& f, const Tensor& x) {
  T* out = x.as<T>();
  auto fill = fill_baseline<T>;
#if defined(__x86_64__)
  if (cpu_isa() >= Isa::avx2) fill = fill_avx2<T>;
#endif
  parallel_ranges(threads, x.numel(), kElementGrain / 8,
                  [&](std::int64_t begin, std::int64_t end) { fill(f, out, begin, end); });
}

void fill_any(int threads, const Fill& f, const Tensor& x) {
  switch (x.dtype) {
    case DType::f64:
      return fill_all<double>(threads, f, x);
    case DType::f32:
      return fill_all<float>(threads, f, x);
    case DType::bf16:
      return fill_all<bf16>(threads, f, x);
    case DType::i32:
    case DType::f16:
      require(false, "fill_uniform, fill_normal", "the CPU fills f64, f32 and bf16");
  }
}

// Elements [begin, end) of x, those of the random sequence from first on. In stages, as above.
[[gnu::always_inline]] inline void round_body(const float* x, bf16* y, RandomKey key, std::uint64_t first,
                                              std::int64_t begin, std::int64_t end) {
  constexpr std::uint64_t kBlocks = 64, kEach = 8 * kBlocks;
  std::uint32_t random[kEach];
  for (std::int64_t i = begin; i < end;) {
    const std::uint64_t index = first + static_cast<std::uint64_t>(i), start = index / 8 * 8;
    for (std::uint64_t j = 0; j < kBlocks; ++j) {
      const Random4 r = philox(key, start / 8 + j);
      for (std::uint64_t k = 0; k < 8; ++k) random[8 * j + k] = random_u16(r, k);
    }
    const std::uint32_t* own = random + (index - start);
    const std::int64_t count = std::min(end - i, static_cast<std::int64_t>(start + kEach - index));
    for (std::int64_t j = 0; j < count; ++j) y[i + j] = round_stochastic(x[i + j], own[j]);
    i += count;
  }
}

void round_baseline(const float* x, bf16* y, RandomKey key, std::uint64_t first, std::int64_t begin,
                    std::int64_t end) {
  round_body(x, y, key, first, begin, end);
}
#if defined(__x86_64__)
[[gnu::target("avx2,fma"), gnu::flatten]] void round_avx2(const float* x, bf16* y, RandomKey key,
                                                          std::uint64_t first, std::int64_t begin,
                                                          std::int64_t end) {
  round_body(x, y, key, first, begin, end);
}
#endif

}  // namespace

void CpuBackend::round_stochastic(const Tensor& x, RandomKey key, std::int64_t first, const Tensor& y) {
  require(x.numel() == y.numel(), "round_stochastic", "x and y have different numbers of elements");
  require(y.dtype == DType::bf16, "round_stochastic", "y is not bf16");
  if (x.dtype == DType::bf16) return copy(x, y);  // nothing to round
  const float* from = x.as<float>();
  bf16* to = y.as<bf16>();
  auto round = round_baseline;
#if defined(__x86_64__)
  if (cpu_isa() >= Isa::avx2) round = round_avx2;
#endif
  parallel_ranges(threads_, x.numel(), kElementGrain / 8, [&](std::int64_t begin, std::int64_t end) {
    round(from, to, key, static_cast<std::uint64_t>(first), begin, end);
  });
}

void CpuBackend::fill_uniform(const Tensor& x, RandomKey key, float low, float high) {
  fill_any(threads_, {key, false, low, high}, x);
}

void CpuBackend::fill_normal(const Tensor& x, RandomKey key, float mean, float deviation) {
  fill_any(threads_, {key, true, mean, deviation}, x);
}

}  // namespace spectrain
