#include <benchmark/benchmark.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "optim/newton_schulz.h"
#include "optim/optimizer.h"

// Newton-Schulz per shape and a whole optimizer step, on the CPU backend.

namespace spectrain {
namespace {

Backend& cpu() {
  static const std::unique_ptr<Backend> backend = make_cpu_backend();
  return *backend;
}

// GFLOP/s counts T (3 m/n + 1) n^3, what remains to be computed when products known to be symmetric are.
void newton_schulz(benchmark::State& state, DType precision) {
  const std::int64_t rows = state.range(0), cols = state.range(1);
  const std::vector<Shape> shapes = {{rows, cols}};
  const NewtonSchulzOptions options{NewtonSchulzTable::polar_express, 0, precision};
  NewtonSchulz stage(options);
  stage.prepare(cpu(), shapes);
  const auto given = cpu().allocate(static_cast<std::size_t>(rows * cols) * 4, "gradient");
  const auto work = cpu().allocate(static_cast<std::size_t>(rows * cols) * 4, "u");
  const Tensor gradient = given->view(DType::f32, shapes[0]), u = work->view(DType::f32, shapes[0]);
  cpu().fill_normal(gradient, {1, 1}, 0, 1);
  for (auto _ : state) {
    cpu().copy(gradient, u);
    benchmark::DoNotOptimize(stage.orthogonalize(u));
  }
  const double n = static_cast<double>(std::min(rows, cols)), m = static_cast<double>(std::max(rows, cols));
  const double flops = static_cast<double>(quintics(options).size()) * (3 * m / n + 1) * n * n * n;
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

void shapes(benchmark::internal::Benchmark* b) {
  b->Args({768, 768})->Args({768, 3072})->Args({3072, 768})->Args({384, 1536});
  b->Unit(benchmark::kMillisecond)->UseRealTime();
}
BENCHMARK_CAPTURE(newton_schulz, f32, DType::f32)->Apply(shapes);
BENCHMARK_CAPTURE(newton_schulz, bf16, DType::bf16)->Apply(shapes);

// The hidden matrices, embedding and gains of a GPT of 6 layers x 384 with a byte vocabulary.
struct Gpt {
  std::deque<ParameterInfo> infos;
  std::vector<std::unique_ptr<Buffer>> memory;
  std::vector<ParameterView> views;

  Gpt() {
    constexpr std::int64_t kWidth = 384;
    add("wte", {256, kWidth}, Role::embedding, {});
    for (int layer = 0; layer < 6; ++layer) {
      const std::string h = "h." + std::to_string(layer) + ".";
      add(h + "qkv", {3 * kWidth, kWidth}, Role::hidden, {kWidth, kWidth, kWidth});
      add(h + "proj", {kWidth, kWidth}, Role::hidden, {});
      add(h + "up", {4 * kWidth, kWidth}, Role::hidden, {});
      add(h + "down", {kWidth, 4 * kWidth}, Role::hidden, {});
      add(h + "norm", {kWidth}, Role::gain, {});
    }
  }

  void add(const std::string& name, Shape shape, Role role, std::vector<std::int64_t> splits) {
    ParameterInfo info;
    info.name = name;
    info.shape = shape;
    info.role = role;
    info.splits = std::move(splits);
    info.logical_rows = shape[0];
    infos.push_back(std::move(info));
    const std::size_t bytes = static_cast<std::size_t>(shape.numel()) * 4;
    for (int i = 0; i < 2; ++i) memory.push_back(cpu().allocate(bytes, name));
    const Tensor value = memory[memory.size() - 2]->view(DType::f32, shape);
    const Tensor gradient = memory.back()->view(DType::f32, shape);
    cpu().fill_normal(value, {2, views.size()}, 0, 0.02F);
    cpu().fill_normal(gradient, {3, views.size()}, 0, 1e-3F);
    views.push_back({&infos.back(), value, gradient});
  }
};

void optimizer_step(benchmark::State& state, const RuleOptions& hidden) {
  Gpt gpt;
  const GroupConfig rest{{Role::embedding, Role::gain}, AdamWOptions{}};
  Optimizer optimizer(cpu(), gpt.views, {{{{Role::hidden}, hidden}, rest}, 1});
  std::int64_t step = 0;
  for (auto _ : state) optimizer.step(step++, 1);
}

RuleOptions muon(DType precision) {
  MuonOptions o;
  o.newton_schulz.precision = precision;
  return o;
}
BENCHMARK_CAPTURE(optimizer_step, adamw_6x384, AdamWOptions{})->Unit(benchmark::kMillisecond)->UseRealTime();
BENCHMARK_CAPTURE(optimizer_step, muon_f32_6x384, muon(DType::f32))
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();
BENCHMARK_CAPTURE(optimizer_step, muon_bf16_6x384, muon(DType::bf16))
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime();

}  // namespace
}  // namespace spectrain
