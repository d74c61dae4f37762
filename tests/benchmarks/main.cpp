#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <omp.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <ctime>
#include <vector>

#include "kernels/cpu/isa/isa.h"
#include "tests/benchmarks/ratio.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace spectrain::bench {
namespace {

struct Line {
  std::string name;
  double value;
};
std::vector<Line> lines;

constexpr int kChains = 10;  // independent sums, enough to hide the latency of two units
constexpr std::int64_t kRounds = 400000;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) double burst_avx512() {
  __m512 sum[kChains];
  const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
  for (auto& s : sum) s = b;
  for (std::int64_t i = 0; i < kRounds; ++i)
#pragma GCC unroll 10
    for (int k = 0; k < kChains; ++k) sum[k] = _mm512_fmadd_ps(sum[k], a, b);
  __m512 all = sum[0];
  for (int k = 1; k < kChains; ++k) all = _mm512_add_ps(all, sum[k]);
  benchmark::DoNotOptimize(all);
  return 2.0 * 16 * kChains * static_cast<double>(kRounds);
}
__attribute__((target("avx2,fma"))) double burst_avx2() {
  __m256 sum[kChains];
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  for (auto& s : sum) s = b;
  for (std::int64_t i = 0; i < kRounds; ++i)
#pragma GCC unroll 10
    for (int k = 0; k < kChains; ++k) sum[k] = _mm256_fmadd_ps(sum[k], a, b);
  __m256 all = sum[0];
  for (int k = 1; k < kChains; ++k) all = _mm256_add_ps(all, sum[k]);
  benchmark::DoNotOptimize(all);
  return 2.0 * 8 * kChains * static_cast<double>(kRounds);
}
#endif

double burst() {
#if defined(__x86_64__)
  if (cpu_isa() >= Isa::avx512) return burst_avx512();
  if (cpu_isa() == Isa::avx2) return burst_avx2();
#endif
  float sum[40];
  for (float& s : sum) s = 1e-3f;
  for (std::int64_t i = 0; i < kRounds; ++i)
    for (float& s : sum) s = s * 0.999f + 1e-3f;
  benchmark::DoNotOptimize(sum);
  return 2.0 * 40 * static_cast<double>(kRounds);
}

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[x.size() / 2];
}

}  // namespace

double seconds_of(const std::function<void()>& work) {
  const auto now = [] {
    timespec t{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  const double start = now();
  work();
  return now() - start;
}

double fma_peak(int threads) {
  double flops = 0;
  const double seconds = seconds_of([&] {
#pragma omp parallel num_threads(threads) reduction(+ : flops)
    flops += burst();
  });
  return flops / seconds;
}

double triad_bandwidth(int threads) {
  constexpr std::int64_t n = std::int64_t{16} << 20;
  static std::vector<float> a(n), b(n, 1.0f), c(n, 2.0f);
  float *x = a.data(), *y = b.data(), *z = c.data();
  const double seconds = seconds_of([&] {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (std::int64_t i = 0; i < n; ++i) x[i] = y[i] + 0.5f * z[i];
  });
  return 3.0 * 4 * static_cast<double>(n) / seconds;
}

Against against(double amount, const std::function<double()>& yardstick, const std::function<void()>& work,
                int repeats) {
  std::vector<double> seconds, ratios;
  work();
  yardstick();
  for (int i = 0; i < repeats; ++i) {
    const double before = yardstick();
    seconds.push_back(seconds_of(work));
    const double standard = (before + yardstick()) / 2;
    ratios.push_back(amount / seconds.back() / standard);
  }
  const double s = median(seconds);
  return {s, amount / s, median(ratios)};
}

void report_ratio(const std::string& name, double value) {
  for (Line& line : lines)
    if (line.name == name) {
      line.value = value;
      return;
    }
  lines.push_back({name, value});
}

}  // namespace spectrain::bench

int main(int argc, char** argv) {
  // Waiting threads must sleep: spinning ones take the cores from those that work. The OpenMP runtime reads
  // this before main, hence the second start.
  if (!std::getenv("OMP_WAIT_POLICY")) {
    setenv("OMP_WAIT_POLICY", "PASSIVE", 1);
    execv("/proc/self/exe", argv);
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  benchmark::RunSpecifiedBenchmarks();
  for (const auto& line : spectrain::bench::lines) fmt::print("ratio {} {:.3f}\n", line.name, line.value);
}
