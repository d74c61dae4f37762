#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstring>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/matrix_choice.h"
#include "tests/benchmarks/ratio.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// The matrix products of training, in GFLOP/s per core and as a share of what multiply-add instructions on
// registers alone reach at the same moment (float32 FMA; bf16 dot products for bf16 where the CPU has them).
// Three ways: `chosen` by choose_engine(), all by `own` kernels, all that oneDNN can do (bf16; float32 prepared products) by `onednn`.

namespace spectrain::bench {
namespace {

#if defined(__x86_64__)
// bf16 dot products on registers; the number of operations.
__attribute__((target("avx512f,avx512bf16"))) double burst_pairs() {
  constexpr int kChains = 12;
  constexpr std::int64_t kRounds = 200000;
  __m512 sum[kChains];
  const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00);
#pragma GCC unroll 12
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (std::int64_t k = 0; k < kRounds; ++k) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = _mm512_dpbf16_ps(sum[i], x, x);
  }
  __m512 all = sum[0];
#pragma GCC unroll 12
  for (int i = 1; i < kChains; ++i) all = _mm512_add_ps(all, sum[i]);
  benchmark::DoNotOptimize(all);
  return 64.0 * kChains * static_cast<double>(kRounds);
}

// Flop per core second.
double pair_peak(int threads) {
  double flops = 0;
  const double seconds = seconds_of([&] {
#pragma omp parallel num_threads(threads) reduction(+ : flops)
    flops += burst_pairs();
  });
  return flops / seconds;
}
#endif

double floor_of(DType dtype, int threads) {
#if defined(__x86_64__)
  if (dtype == DType::bf16 && cpu_isa() == Isa::avx512_bf16) return pair_peak(threads);
#endif
  (void)dtype;
  return fma_peak(threads);
}

enum class Way { chosen, own, onednn };
enum class Side { forward, input, weight };

struct Case {
  std::int64_t rows, n, k;
  DType dtype;
  Side side;
  Way way;
  int threads;
};

std::unique_ptr<Backend> backend_for(const Case& c) {
  forget_forced_engine();
  if (c.way != Way::chosen) force_engine(c.way == Way::own ? MatrixEngine::own : MatrixEngine::onednn);
  return make_cpu_backend({.threads = c.threads});
}

std::unique_ptr<Buffer> random_buffer(Backend& cpu, std::int64_t count, DType dtype) {
  auto buffer = cpu.allocate(static_cast<std::size_t>(count) * size_of(dtype), "benchmark");
  cpu.fill_uniform(buffer->view(dtype, {count}), RandomKey{}, -1, 1);
  return buffer;
}

void product(benchmark::State& state, const Case& c, const std::string& name) {
  auto cpu = backend_for(c);
  const auto w_memory = random_buffer(*cpu, c.n * c.k, DType::f32);
  const auto x_memory = random_buffer(*cpu, c.rows * c.k, c.dtype),
             y_memory = random_buffer(*cpu, c.rows * c.n, c.dtype);
  const Tensor w = w_memory->view(DType::f32, {c.n, c.k});
  const Tensor x = x_memory->view(c.dtype, {c.rows, c.k}), y = y_memory->view(c.dtype, {c.rows, c.n});
  const auto matrix = cpu->prepare(w, c.dtype, c.side == Side::input);
  const double flops =
      2.0 * static_cast<double>(c.rows) * static_cast<double>(c.n) * static_cast<double>(c.k);
  for (auto _ : state) {
    const Against a = against(
        flops, [&] { return floor_of(c.dtype, c.threads); },
        [&] {
          if (c.side == Side::forward) cpu->linear(x, *matrix, {}, Activation::none, {}, y);
          if (c.side == Side::input) cpu->linear_backward_input(y, *matrix, x, false);
          if (c.side == Side::weight) cpu->linear_backward_weight(y, x, w, false);
        },
        flops > 1e11 ? 3 : 7);
    state.SetIterationTime(a.seconds);
    state.counters["GFLOP/s/core"] = a.rate / 1e9;
    state.counters["ratio"] = a.ratio;
    report_ratio(name, a.ratio);
  }
  forget_forced_engine();
}

void register_products() {
  struct Size {
    std::int64_t rows, n, k;
  };
  std::vector<Size> sizes;
  for (std::int64_t rows : {256, 4096})
    for (const Size& s : {Size{0, 2304, 768}, {0, 768, 768}, {0, 3072, 768}, {0, 768, 3072}, {0, 50304, 768}})
      sizes.push_back({rows, s.n, s.k});
  for (const Size& s : {Size{0, 1152, 384}, {0, 384, 384}, {0, 1536, 384}, {0, 384, 1536}, {0, 50304, 384}})
    sizes.push_back({4096, s.n, s.k});
  sizes.push_back({2048, 768, 256});
  sizes.push_back({2048, 256, 1024});
  const char* ways[] = {"chosen", "own", "onednn"};
  const char* sides[] = {"forward", "input", "weight"};
  for (const Size& s : sizes)
    for (DType dtype : {DType::f32, DType::bf16})
      for (Side side : {Side::forward, Side::input, Side::weight})
        for (Way way : {Way::chosen, Way::own, Way::onednn})
          for (int threads : {1, 2}) {
            const std::string name = fmt::format("matrix/{}/{}/{}/R{}_N{}_K{}/threads{}", name_of(dtype),
                                                 sides[static_cast<int>(side)], ways[static_cast<int>(way)],
                                                 s.rows, s.n, s.k, threads);
            const Case c{s.rows, s.n, s.k, dtype, side, way, threads};
            benchmark::RegisterBenchmark(name.c_str(),
                                         [=](benchmark::State& state) { product(state, c, name); })
                ->UseManualTime()
                ->Iterations(1)
                ->Unit(benchmark::kMillisecond);
          }
}

const bool registered = (register_products(), true);

}  // namespace
}  // namespace spectrain::bench
