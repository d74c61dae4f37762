#include "kernels/cpu/checks.h"
#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/sample_token.h"

// One block draws the token of a row; each thread looks at four tokens a turn, those of one random block.
// Floor: the logits read once; the ten rounds of Philox and two logarithms of each token cost more than that,
// some 60 instructions. It runs once in ten steps of an optimizer that asks for it.

namespace spectrain {
namespace {

constexpr int kThreads = 256;

struct Best {
  float score;
  int token;
};

// Of equal scores the earlier token, as one thread alone would find it.
__device__ inline Best better(const Best& a, const Best& b) {
  return b.score > a.score || (b.score == a.score && b.token < a.token) ? b : a;
}

__device__ inline Best warp_best(Best x) {
  for (int k = kWarp / 2; k > 0; k /= 2) {
    const Best other{__shfl_xor_sync(kWholeWarp, x.score, k), __shfl_xor_sync(kWholeWarp, x.token, k)};
    x = better(x, other);
  }
  return x;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    sample_kernel(const T* logits, std::int64_t rows, std::int64_t columns, int vocab, Softcap cap,
                  RandomKey key, std::int64_t first, std::int32_t* targets) {
  __shared__ float scores[kThreads / kWarp];
  __shared__ int tokens[kThreads / kWarp];
  const int me = static_cast<int>(threadIdx.x);
  for (std::int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const T* z = logits + r * columns;
    const std::uint64_t block = static_cast<std::uint64_t>(first + r) * gumbel_blocks(vocab);
    Best best{-INFINITY, 0x7fffffff};
    for (int v = me * 4; v < vocab; v += kThreads * 4) {
      const Random4 words = philox(key, block + static_cast<std::uint64_t>(v / 4));
      for (int k = 0; k < 4 && v + k < vocab; ++k)
        best = better(best, {capped_logit(cap, widen(z[v + k])) + gumbel(words.v[k]), v + k});
    }
    best = warp_best(best);
    __syncthreads();  // the row before has been read
    if (me % kWarp == 0) {
      scores[me / kWarp] = best.score;
      tokens[me / kWarp] = best.token;
    }
    __syncthreads();
    if (me == 0) {
      for (int w = 1; w < kThreads / kWarp; ++w) best = better(best, {scores[w], tokens[w]});
      if (targets[r] >= 0) targets[r] = best.token < vocab ? best.token : 0;
    }
  }
}

}  // namespace

void CudaBackend::sample_targets(const Tensor& logits, std::int64_t vocab, const Softcap& cap, RandomKey key,
                                 std::int64_t first, const Tensor& targets) {
  const std::int64_t rows = logits.rows(), columns = logits.cols();
  require_vector(targets, DType::i32, rows, rows == 0, "sample_targets", "targets");
  require(vocab >= 1 && vocab <= columns, "sample_targets", "the vocabulary does not fit the logits");
  if (rows == 0) return;
  with_compute(logits, "sample_targets", [&](const auto* z) {
    launch(stream(), {blocks_for(rows), kThreads}, sample_kernel<Element<decltype(z)>>, z, rows, columns,
           static_cast<int>(vocab), cap, key, first, targets.as<std::int32_t>());
  });
}

}  // namespace spectrain
