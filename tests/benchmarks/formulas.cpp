#include <benchmark/benchmark.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "tests/benchmarks/ratio.h"

// Rules written as formulas against kernels of their own, in turns: how much the interpreter costs.

namespace spectrain {
namespace {

Backend& cpu() {
  static const std::unique_ptr<Backend> backend = make_cpu_backend();
  return *backend;
}

// The median of formula time / kernel time; what both read and write is the same.
void adamw(benchmark::State& state) {
  const std::int64_t n = state.range(0);
  std::vector<std::unique_ptr<Buffer>> memory;
  std::vector<Tensor> tensors;
  for (int i = 0; i < 4; ++i) {
    memory.push_back(cpu().allocate(static_cast<std::size_t>(n) * 4, "w, g, m or v"));
    tensors.push_back(memory.back()->view(DType::f32, {n}));
    cpu().fill(tensors.back(), 0.5);
  }
  Formula f;
  const Term w = f.tensor(0), g = f.tensor(1), m = f.tensor(2), v = f.tensor(3);
  const Term lr = f.number(0), b1 = f.number(1), b2 = f.number(2), eps = f.number(3), decay = f.number(4);
  const Term c1 = f.number(5), c2 = f.number(6);
  const Term m1 = b1 * m + (1 - b1) * g, v1 = b2 * v + (1 - b2) * square(g);
  f.assign(0, w - (lr * decay * w + lr / c1 * m1 / (sqrt(v1) * (1 / sqrt(c2)) + eps)));
  f.assign(2, m1);
  f.assign(3, v1);
  AdamWStep s;
  s.lr = 1e-4;
  s.step = 5;
  const std::vector<double> numbers = {s.lr, s.beta1, s.beta2, s.eps, 0, 0.5, 0.3};
  const auto kernel = [&] { cpu().adamw(s, {{tensors[0], tensors[1], tensors[2], tensors[3]}}); };
  const auto formula = [&] { cpu().evaluate(f, numbers, tensors); };
  std::vector<double> ratios;
  for (auto _ : state) {
    const double direct = bench::seconds_of(kernel);
    ratios.push_back(bench::seconds_of(formula) / direct);
  }
  std::nth_element(ratios.begin(), ratios.begin() + static_cast<std::ptrdiff_t>(ratios.size() / 2),
                   ratios.end());
  const double median = ratios[ratios.size() / 2];
  state.counters["formula/kernel"] = median;
  bench::report_ratio("adamw as a formula / kernel " + std::to_string(n), median);
}
BENCHMARK(adamw)->Arg(1 << 20)->Arg(1 << 24)->Iterations(31)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace spectrain
