#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <random>
#include <vector>

#include "kernels/backend.h"
#include "tests/benchmarks/ratio.h"

// Attention against the float32 FMA peak (causal flops: forward 2 B H T^2 D, backward 5 B H T^2 D);
// cross entropy and the QK transform against triad bandwidth (bytes that must move).

namespace spectrain::bench {
namespace {

class Memory {
 public:
  Memory(DType dtype, std::int64_t rows, std::int64_t cols, float magnitude)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        bytes_(static_cast<std::size_t>(rows * cols) * size_of(dtype)) {
    std::mt19937 random(1);
    for (std::int64_t i = 0; i < rows * cols; ++i) {
      const float x = magnitude * (static_cast<float>(random() >> 8) * 0x1p-23f - 1);
      if (dtype == DType::f32)
        reinterpret_cast<float*>(bytes_.data())[i] = x;
      else
        reinterpret_cast<bf16*>(bytes_.data())[i] = bf16(x);
    }
  }
  Tensor tensor() { return Tensor(bytes_.data(), dtype_, {rows_, cols_}); }

 private:
  DType dtype_;
  std::int64_t rows_, cols_;
  std::vector<std::byte> bytes_;
};

void publish(benchmark::State& state, const Against& a, const std::string& name, const char* unit) {
  state.SetIterationTime(a.seconds);
  state.counters[unit] = a.rate / 1e9;
  state.counters["ratio"] = a.ratio;
  report_ratio(name, a.ratio);
}

void attention(benchmark::State& state, HeadLayout l, DType dtype, int threads) {
  auto cpu = make_cpu_backend({.threads = threads});
  Memory qkv(dtype, l.rows(), l.packed(), 1), out(dtype, l.rows(), l.width(), 0),
      dout(dtype, l.rows(), l.width(), 1);
  Memory lse(DType::f32, l.batch * l.heads, l.context, 0), dqkv(dtype, l.rows(), l.packed(), 0);
  const double products = static_cast<double>(l.batch * l.heads * l.context * l.context * l.head_dim);
  const bool backward = state.range(0) != 0;
  const auto forward = [&] { cpu->attention(l, 0.125, qkv.tensor(), {}, out.tensor(), lse.tensor()); };
  const auto gradient = [&] {
    cpu->attention_backward(l, 0.125, dout.tensor(), qkv.tensor(), {}, out.tensor(), lse.tensor(),
                            dqkv.tensor());
  };
  forward();
  for (auto _ : state) {
    const auto peak = [&] { return fma_peak(threads); };
    const Against a = backward ? against(5 * products, peak, gradient) : against(2 * products, peak, forward);
    publish(state, a,
            fmt::format("attention_{} B{} T{} H{} D{} {} threads {} / fma peak",
                        backward ? "backward" : "forward", l.batch, l.context, l.heads, l.head_dim,
                        name_of(dtype), threads),
            "GFLOP/s");
  }
}

void cross_entropy(benchmark::State& state, Softcap cap, DType dtype, int threads) {
  constexpr std::int64_t R = 512, V = 50304, vocab = 50257;
  auto cpu = make_cpu_backend({.threads = threads});
  // In place for f32, as the program does it; 100 MB of logits, far beyond the caches.
  Memory logits(DType::f32, R, V, 5), gradient(DType::bf16, dtype == DType::bf16 ? R : 1, V, 0),
      losses(DType::f32, R, 1, 0);
  std::vector<std::int32_t> targets(R, 17);
  const Tensor t(targets.data(), DType::i32, {R});
  const Tensor d = dtype == DType::bf16 ? gradient.tensor() : logits.tensor();
  const double bytes = static_cast<double>(R * V) * static_cast<double>(4 + size_of(dtype));
  for (auto _ : state)
    publish(state,
            against(
                bytes, [&] { return triad_bandwidth(threads); },
                [&] { cpu->cross_entropy(logits.tensor(), t, vocab, cap, 1, losses.tensor(), d); }),
            fmt::format("cross_entropy R{} V{} cap {} {} threads {} / triad", R, V,
                        static_cast<int>(cap.kind), name_of(dtype), threads),
            "GB/s");
}

void qk_transform(benchmark::State& state, RotaryPairs pairs, DType dtype, int threads) {
  const HeadLayout l{.batch = 8, .context = 1024, .heads = 12, .kv_heads = 12, .head_dim = 64};
  auto cpu = make_cpu_backend({.threads = threads});
  Memory in(dtype, l.rows(), l.packed(), 1), out(dtype, l.rows(), l.packed(), 0),
      rstd(DType::f32, l.rows(), 24, 0);
  Memory cos(DType::f32, l.context, 32, 1), sin(DType::f32, l.context, 32, 1);
  QkTransform q;
  q.norm = true;
  q.eps = 1e-6;
  q.cos = cos.tensor();
  q.sin = sin.tensor();
  q.pairs = pairs;
  const bool backward = state.range(0) != 0;
  const double tensors = backward ? 2 + 2.0 / 3 : 2;  // the output's values are not read again
  const double bytes = tensors * static_cast<double>(in.tensor().bytes());
  for (auto _ : state)
    publish(state,
            against(
                bytes, [&] { return triad_bandwidth(threads); },
                [&] {
                  if (backward)
                    cpu->qk_transform_backward(l, q, out.tensor(), in.tensor(), rstd.tensor(), out.tensor());
                  else
                    cpu->qk_transform(l, q, in.tensor(), out.tensor(), rstd.tensor());
                }),
            fmt::format("qk_transform_{} {} {} threads {} / triad", backward ? "backward" : "forward",
                        pairs == RotaryPairs::halves ? "halves" : "interleaved", name_of(dtype), threads),
            "GB/s");
}

const HeadLayout kLarge{.batch = 4, .context = 1024, .heads = 12, .kv_heads = 12, .head_dim = 64};
const HeadLayout kSmall{.batch = 16, .context = 256, .heads = 6, .kv_heads = 6, .head_dim = 64};
const Softcap kRational{.kind = Softcap::Kind::rational, .cap = 15};
const Softcap kTanh{.kind = Softcap::Kind::tanh, .cap = 15};

#define CASE(...) \
  BENCHMARK_CAPTURE(__VA_ARGS__)->Iterations(1)->UseManualTime()->Unit(benchmark::kMillisecond)
CASE(attention, large_f32, kLarge, DType::f32, 1)->Arg(0)->Arg(1);
CASE(attention, large_bf16, kLarge, DType::bf16, 1)->Arg(0)->Arg(1);
CASE(attention, small_f32, kSmall, DType::f32, 1)->Arg(0)->Arg(1);
CASE(attention, small_bf16, kSmall, DType::bf16, 1)->Arg(0)->Arg(1);
CASE(attention, large_f32_2, kLarge, DType::f32, 2)->Arg(0)->Arg(1);
CASE(attention, small_f32_2, kSmall, DType::f32, 2)->Arg(0)->Arg(1);
CASE(cross_entropy, none_f32, Softcap{}, DType::f32, 2);
CASE(cross_entropy, none_bf16, Softcap{}, DType::bf16, 2);
CASE(cross_entropy, rational_f32, kRational, DType::f32, 2);
CASE(cross_entropy, tanh_f32, kTanh, DType::f32, 2);
CASE(qk_transform, halves_f32, RotaryPairs::halves, DType::f32, 2)->Arg(0)->Arg(1);
CASE(qk_transform, halves_bf16, RotaryPairs::halves, DType::bf16, 2)->Arg(0)->Arg(1);
CASE(qk_transform, interleaved_f32, RotaryPairs::interleaved, DType::f32, 2)->Arg(0)->Arg(1);

}  // namespace
}  // namespace spectrain::bench
