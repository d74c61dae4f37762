#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"
#include "kernels/sample_token.h"

namespace spectrain {
namespace {

std::int32_t draw(const float* z, std::int64_t vocab, const Softcap& cap, RandomKey key,
                  std::uint64_t block) {
  float best = -INFINITY;
  std::int64_t token = 0;
  for (std::int64_t v = 0; v < vocab; v += 4, ++block) {
    const Random4 words = philox(key, block);
    for (std::int64_t k = 0; k < 4 && v + k < vocab; ++k) {
      const float score = capped_logit(cap, z[v + k]) + gumbel(words.v[k]);
      if (score > best) {
        best = score;
        token = v + k;
      }
    }
  }
  return static_cast<std::int32_t>(token);
}

}  // namespace

void CpuBackend::sample_targets(const Tensor& logits, std::int64_t vocab, const Softcap& cap, RandomKey key,
                                std::int64_t first, const Tensor& targets) {
  const std::int64_t rows = logits.rows(), columns = logits.cols();
  require_vector(logits, DType::f32, rows * columns, rows == 0, "sample_targets", "logits");
  require_vector(targets, DType::i32, rows, rows == 0, "sample_targets", "targets");
  require(vocab >= 1 && vocab <= columns, "sample_targets", "the vocabulary does not fit the logits");
  if (rows == 0) return;
  const float* z = logits.as<float>();
  auto* const t = targets.as<std::int32_t>();
  parallel_ranges(threads_, rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      if (t[r] >= 0)
        t[r] = draw(z + r * columns, vocab, cap, key,
                    static_cast<std::uint64_t>(first + r) * gumbel_blocks(vocab));
  });
}

}  // namespace spectrain
