#include "kernels/cpu/isa/attention.h"

#include <fmt/format.h>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {
namespace {

constexpr std::int64_t kBlock = kAttentionBlock;
constexpr std::int64_t kLargestHeadDim = 256;
constexpr std::int64_t kScores = kBlock * kBlock;

std::int64_t blocks_of(const HeadLayout& l) { return (l.context + kBlock - 1) / kBlock; }
std::int64_t padded_dim(const HeadLayout& l) { return (l.head_dim + 15) / 16 * 16; }

// Floats of scratch one thread needs (isa/attention.h), in whole cache lines.
std::int64_t forward_scratch(const HeadLayout& l, std::int64_t together) {
  const std::int64_t tile = kBlock * padded_dim(l);
  return 2 * tile + kScores + together * (2 * tile + 2 * kBlock);
}
std::int64_t backward_scratch(const HeadLayout& l) { return 8 * kBlock * padded_dim(l) + 2 * kScores; }
std::int64_t backward_all_scratch(const HeadLayout& l) {
  return backward_scratch(l) + l.heads / l.kv_heads * blocks_of(l) * kBlock * padded_dim(l);
}

void check(const HeadLayout& l, const Tensor& qkv, const Tensor& first_key, const Tensor& out,
           const Tensor& lse, bool may_lack_lse, std::string_view kernel) {
  require(l.head_dim >= 1 && l.head_dim <= kLargestHeadDim, kernel,
          [&] { return fmt::format("head_dim is {}, the CPU takes 1 to {}", l.head_dim, kLargestHeadDim); });
  require(l.heads >= 1 && l.kv_heads >= 1 && l.heads % l.kv_heads == 0, kernel,
          [&] { return fmt::format("{} query heads cannot share {} key/value heads", l.heads, l.kv_heads); });
  require_compute(qkv, kernel, "qkv");
  require(qkv.numel() == l.rows() * l.packed(), kernel, [&] {
    return fmt::format("qkv {} is not [batch * context, packed] = [{}, {}]", qkv.shape.str(), l.rows(),
                       l.packed());
  });
  require(out.dtype == qkv.dtype && out.numel() == l.rows() * l.width(), kernel, [&] {
    return fmt::format("out {} {} is not {} [batch * context, width] = [{}, {}]", name_of(out.dtype),
                       out.shape.str(), name_of(qkv.dtype), l.rows(), l.width());
  });
  require_vector(first_key, DType::i32, l.rows(), true, kernel, "first_key");
  require_vector(lse, DType::f32, l.batch * l.heads * l.context, may_lack_lse, kernel, "lse");
}

AttentionArgs arguments(const HeadLayout& l, double scale, const Tensor& qkv, const Tensor& first_key,
                        const Tensor& out, const Tensor& lse) {
  AttentionArgs a{};
  a.batch = l.batch;
  a.context = l.context;
  a.heads = l.heads;
  a.kv_heads = l.kv_heads;
  a.head_dim = l.head_dim;
  a.scale = static_cast<float>(scale);
  a.first_key = first_key ? first_key.as<std::int32_t>() : nullptr;
  a.qkv = qkv.data;
  a.out = out.data;
  a.lse = lse ? lse.as<float>() : nullptr;
  return a;
}

// task(index, scratch of the thread) for index in [0, tasks), handed out in order, one at a time: the callers
// put the longest tasks first, so that the threads end together.
template <class Task>
void run_tasks(int threads, std::int64_t tasks, float* scratch, std::int64_t scratch_floats,
               const Task& task) {
  parallel_tasks(threads, tasks,
                 [&](std::int64_t i, int thread) { task(i, scratch + thread * scratch_floats); });
}

}  // namespace

float* CpuBackend::scratch(std::int64_t floats) {
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  if (!scratch_ || scratch_->bytes() < bytes) {
    scratch_.reset();  // first, so that the old and the new need not fit together
    scratch_ = allocate(bytes, "scratch");
  }
  return static_cast<float*>(scratch_->data());
}

void CpuBackend::attention(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
                           const Tensor& out, const Tensor& lse) {
  check(layout, qkv, first_key, out, lse, true, "attention");
  const AttentionArgs a = arguments(layout, scale, qkv, first_key, out, lse);
  const auto forward = SPECTRAIN_ISA_SELECT(attention_table).forward[qkv.dtype == DType::bf16];
  const std::int64_t heads = layout.batch * layout.heads, blocks = blocks_of(layout);
  // Query blocks taken together save fetching keys and values again, as long as all threads find enough
  // tasks.
  std::int64_t together = 4;
  while (together > 1 && heads * ((blocks + together - 1) / together) < 4 * threads_) together /= 2;
  const std::int64_t parts = (blocks + together - 1) / together;
  const std::int64_t floats = forward_scratch(layout, together);
  run_tasks(threads_, heads * parts, scratch(threads_ * floats), floats, [&](std::int64_t i, float* scratch) {
    const std::int64_t head = i % heads, last = blocks - i / heads * together;
    forward(a, head / a.heads, head % a.heads, std::max<std::int64_t>(0, last - together), last, scratch);
  });
}

void CpuBackend::attention_backward(const HeadLayout& layout, double scale, const Tensor& dout,
                                    const Tensor& qkv, const Tensor& first_key, const Tensor& out,
                                    const Tensor& lse, const Tensor& dqkv) {
  constexpr std::string_view kernel = "attention_backward";
  check(layout, qkv, first_key, out, lse, false, kernel);
  require_same(dout, out, kernel, "out and dout");
  require_same(dqkv, qkv, kernel, "qkv and dqkv");
  const std::int64_t heads = layout.batch * layout.heads, kv_heads = layout.batch * layout.kv_heads;
  const std::int64_t blocks = blocks_of(layout);
  // One task per key/value head costs 5 matrix products for each tile, the small tasks 7: those pay off only
  // where whole heads would leave threads idle. Both give the same bits.
  const std::int64_t rounds = (kv_heads + threads_ - 1) / threads_;
  const bool whole = 5 * rounds * threads_ <= 7 * kv_heads || threads_ == 1;
  const std::int64_t floats = whole ? backward_all_scratch(layout) : backward_scratch(layout);
  const std::int64_t deltas = (heads * layout.context + 15) / 16 * 16;
  float* memory = scratch(deltas + threads_ * floats);
  AttentionArgs a = arguments(layout, scale, qkv, first_key, out, lse);
  a.dout = dout.data;
  a.delta = memory;
  a.dqkv = dqkv.data;
  const AttentionTable& table = SPECTRAIN_ISA_SELECT(attention_table);
  const int type = qkv.dtype == DType::bf16;
  parallel_ranges(threads_, layout.rows(), std::max<std::int64_t>(1, kElementGrain / layout.width()),
                  [&](std::int64_t begin, std::int64_t end) { table.delta[type](a, begin, end); });
  if (whole) {
    run_tasks(threads_, kv_heads, memory + deltas, floats, [&](std::int64_t i, float* scratch) {
      table.backward_all[type](a, i / a.kv_heads, i % a.kv_heads, scratch);
    });
    return;
  }
  const std::int64_t key_tasks = kv_heads * blocks;
  run_tasks(
      threads_, key_tasks + heads * blocks, memory + deltas, floats, [&](std::int64_t i, float* scratch) {
        if (i < key_tasks) {
          const std::int64_t head = i % kv_heads;
          table.backward_keys[type](a, head / a.kv_heads, head % a.kv_heads, i / kv_heads, scratch);
        } else {
          const std::int64_t k = i - key_tasks, head = k % heads;
          table.backward_queries[type](a, head / a.heads, head % a.heads, blocks - 1 - k / heads, scratch);
        }
      });
}

}  // namespace spectrain
