#include <benchmark/benchmark.h>
#include <omp.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "tests/benchmarks/ratio.h"

// The kernels that memory bounds: each reports the GB/s it moves (every byte it must read or write, counted
// once) and that as a fraction of a triad a = b + s c measured in the same process, alternating with it, so
// that a noisy machine slows both. "of triad" is the number to watch; above 1 the data came from a cache.

namespace spectrain {
namespace {

Backend& cpu() {
  static const std::unique_ptr<Backend> backend = make_cpu_backend();
  return *backend;
}

struct Arena {
  std::vector<std::unique_ptr<Buffer>> memory;
  std::uint64_t draws = 0;

  Tensor make(Shape shape, DType dtype) {
    memory.push_back(
        cpu().allocate(static_cast<std::size_t>(shape.numel()) * size_of(dtype), "a benchmark tensor"));
    const Tensor t = memory.back()->view(dtype, shape);
    if (dtype == DType::i32)
      for (std::int64_t i = 0; i < t.numel(); ++i)
        t.as<std::int32_t>()[i] =
            static_cast<std::int32_t>(random_u32({1, 2}, static_cast<std::uint64_t>(i)) % 50257);
    else
      cpu().fill_normal(t, {1, ++draws}, 0, 1);
    return t;
  }
};

// bytes: what one call of the kernel reads and writes.
template <class Kernel>
void against_triad(benchmark::State& state, const char* name, double bytes, const Kernel& kernel) {
  bench::Against result{};
  for (auto _ : state) {
    result = bench::against(
        bytes, [] { return bench::triad_bandwidth(omp_get_max_threads()); }, kernel);
    state.SetIterationTime(result.seconds);
  }
  state.counters["GB/s per core"] = result.rate * 1e-9;
  bench::report_ratio(std::string(name) + " to triad", result.ratio);
}

#define SPECTRAIN_MEMORY_BENCHMARK(...) \
  BENCHMARK_CAPTURE(__VA_ARGS__)->UseManualTime()->Iterations(1)->Unit(benchmark::kMillisecond)

void adamw(benchmark::State& state, const char* name) {
  Arena arena;
  const std::int64_t n = 32 << 20;
  const Tensor w = arena.make({n}, DType::f32), g = arena.make({n}, DType::f32),
               m = arena.make({n}, DType::f32);
  const Tensor v = arena.make({n}, DType::f32);
  cpu().fill(v, 1);
  AdamWStep s;
  s.lr = 1e-3;
  s.weight_decay = 0.1;
  against_triad(state, name, 28.0 * static_cast<double>(n), [&] {
    cpu().adamw(s, {{w, g, m, v}});
  });  // 4 read, 3 written
}
SPECTRAIN_MEMORY_BENCHMARK(adamw, f32, "adamw");

// All matrices of a GPT-2 124M as they come, small ones beside large ones: one list, and one by one.
void adamw_of_a_model(benchmark::State& state, const char* name, bool together) {
  Arena arena;
  std::vector<AdamWPart> parts;
  double bytes = 0;
  for (int i = 0; i < 148; ++i) {
    const Shape shape{i % 12 == 0 ? std::int64_t{768 * 3072} : i % 3 == 0 ? std::int64_t{768 * 768} : 768};
    const auto make = [&] { return arena.make(shape, DType::f32); };
    parts.push_back({make(), make(), make(), make()});
    cpu().fill(parts.back().v, 1);
    bytes += 28.0 * static_cast<double>(shape.numel());
  }
  AdamWStep s;
  s.lr = 1e-3;
  against_triad(state, name, bytes, [&] {
    if (together) return cpu().adamw(s, parts);
    for (const AdamWPart& p : parts) cpu().adamw(s, {p});
  });
}
SPECTRAIN_MEMORY_BENCHMARK(adamw_of_a_model, together, "adamw of a model, together", true);
SPECTRAIN_MEMORY_BENCHMARK(adamw_of_a_model, one_by_one, "adamw of a model, one by one", false);

void round_stochastic(benchmark::State& state, const char* name) {
  Arena arena;
  const std::int64_t n = 32 << 20;
  const Tensor x = arena.make({n}, DType::f32), y = arena.make({n}, DType::bf16);
  against_triad(state, name, 6.0 * static_cast<double>(n), [&] { cpu().round_stochastic(x, {1, 2}, 0, y); });
}
SPECTRAIN_MEMORY_BENCHMARK(round_stochastic, bf16, "round_stochastic");

constexpr std::int64_t kRows = 16384, kWidth = 768;

void norm(benchmark::State& state, const char* name, NormKind kind, DType dtype) {
  Arena arena;
  const Tensor x = arena.make({kRows, kWidth}, dtype), y = arena.make({kRows, kWidth}, dtype);
  const Tensor gain = arena.make({kWidth}, DType::f32), mean = arena.make({kRows}, DType::f32);
  const Tensor rstd = arena.make({kRows}, DType::f32);
  against_triad(state, name, 2.0 * static_cast<double>(x.bytes()),
                [&] { cpu().norm(kind, x, gain, {}, 1e-5, y, mean, rstd); });
}
SPECTRAIN_MEMORY_BENCHMARK(norm, layer_f32, "norm layer_f32", NormKind::layer, DType::f32);
SPECTRAIN_MEMORY_BENCHMARK(norm, rms_bf16, "norm rms_bf16", NormKind::rms, DType::bf16);

void norm_backward(benchmark::State& state, const char* name, NormKind kind, DType dtype) {
  Arena arena;
  const Tensor x = arena.make({kRows, kWidth}, dtype), dy = arena.make({kRows, kWidth}, dtype);
  const Tensor dx = arena.make({kRows, kWidth}, dtype), gain = arena.make({kWidth}, DType::f32);
  const Tensor mean = arena.make({kRows}, DType::f32), rstd = arena.make({kRows}, DType::f32);
  const Tensor dgain = arena.make({kWidth}, DType::f32), dbias = arena.make({kWidth}, DType::f32);
  against_triad(state, name, 4.0 * static_cast<double>(x.bytes()),
                [&] { cpu().norm_backward(kind, dy, x, gain, mean, rstd, dx, true, dgain, dbias, true); });
}
SPECTRAIN_MEMORY_BENCHMARK(norm_backward, layer_f32, "norm_backward layer_f32", NormKind::layer, DType::f32);
SPECTRAIN_MEMORY_BENCHMARK(norm_backward, rms_bf16, "norm_backward rms_bf16", NormKind::rms, DType::bf16);

void activation(benchmark::State& state, const char* name, Activation act, DType dtype) {
  Arena arena;
  const Tensor x = arena.make({kRows, kWidth}, dtype), y = arena.make({kRows, kWidth}, dtype);
  against_triad(state, name, 2.0 * static_cast<double>(x.bytes()), [&] { cpu().activation(act, x, y); });
}
SPECTRAIN_MEMORY_BENCHMARK(activation, gelu_tanh_f32, "activation gelu_tanh_f32", Activation::gelu_tanh,
                           DType::f32);
SPECTRAIN_MEMORY_BENCHMARK(activation, gelu_tanh_bf16, "activation gelu_tanh_bf16", Activation::gelu_tanh,
                           DType::bf16);
SPECTRAIN_MEMORY_BENCHMARK(activation, gelu_f32, "activation gelu_f32", Activation::gelu, DType::f32);

void activation_backward(benchmark::State& state, const char* name, Activation act, DType dtype) {
  Arena arena;
  const Tensor x = arena.make({kRows, kWidth}, dtype), dy = arena.make({kRows, kWidth}, dtype);
  against_triad(state, name, 3.0 * static_cast<double>(x.bytes()),
                [&] { cpu().activation_backward(act, dy, x, dy); });
}
SPECTRAIN_MEMORY_BENCHMARK(activation_backward, gelu_tanh_f32, "activation_backward gelu_tanh_f32",
                           Activation::gelu_tanh, DType::f32);

void embedding(benchmark::State& state, const char* name, bool backward) {
  Arena arena;
  const Tensor tokens = arena.make({kRows}, DType::i32), table = arena.make({50257, kWidth}, DType::f32);
  const Tensor out = arena.make({kRows, kWidth}, DType::f32);
  const auto forward = [&] { cpu().embedding(tokens, table, {}, 1024, out); };
  const auto back = [&] { cpu().embedding_backward(tokens, out, 1024, table, {}); };
  backward ? against_triad(state, name, 3.0 * static_cast<double>(out.bytes()), back)
           : against_triad(state, name, 2.0 * static_cast<double>(out.bytes()), forward);
}
SPECTRAIN_MEMORY_BENCHMARK(embedding, forward, "embedding forward", false);
SPECTRAIN_MEMORY_BENCHMARK(embedding, backward, "embedding backward", true);

void sum_of_squares(benchmark::State& state, const char* name) {
  Arena arena;
  const Tensor x = arena.make({32 << 20}, DType::f32);
  against_triad(state, name, static_cast<double>(x.bytes()),
                [&] { benchmark::DoNotOptimize(cpu().sum_of_squares(x)); });
}
SPECTRAIN_MEMORY_BENCHMARK(sum_of_squares, f32, "sum_of_squares");

void fill_normal(benchmark::State& state, const char* name) {
  Arena arena;
  const Tensor x = arena.make({8 << 20}, DType::f32);
  against_triad(state, name, static_cast<double>(x.bytes()), [&] { cpu().fill_normal(x, {1, 1}, 0, 1); });
}
SPECTRAIN_MEMORY_BENCHMARK(fill_normal, f32, "fill_normal");

}  // namespace
}  // namespace spectrain
