#include "kernels/cuda/convert.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/plain_product.h"

namespace spectrain {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;   // rows and columns of c done by one block
constexpr int kDepth = 16;  // of k, at a time in shared memory
constexpr int kOwn = 4;     // kOwn x kOwn elements of c are one thread's
static_assert(kThreads * kOwn * kOwn == kTile * kTile);

// Strides in elements: op(a)[i,k] = a[i * a_row + k * a_col], op(b)[k,j] = b[k * b_row + j * b_col].
struct Problem {
  std::int64_t batch, m, n, k;
  std::int64_t a_row, a_col, b_row, b_col;
  float alpha, beta;
  bool gelu_tanh;
};

// Each product lies in one thread, summed in the order of k: the bits depend on nothing else.
// Floor: 2 m n k operations of the multiply-add units (67 TFLOP/s on an H100). Each element read from shared
// memory is used 4 times, so about a third of that can be had; it is there for shapes a library refuses.
template <class F, class R>
__global__ void __launch_bounds__(kThreads)
    plain_kernel(Problem p, const F* a, const F* b, const R* bias, R* pre, R* c) {
  __shared__ float as[kDepth][kTile + 1], bs[kDepth][kTile + 1];  // + 1: columns in banks of their own
  const int t = static_cast<int>(threadIdx.x), row = t / (kTile / kOwn), col = t % (kTile / kOwn);
  const std::int64_t across = (p.n + kTile - 1) / kTile, down = (p.m + kTile - 1) / kTile;
  for (std::int64_t tile = blockIdx.x; tile < p.batch * across * down; tile += gridDim.x) {
    const std::int64_t matrix = tile / (across * down), within = tile % (across * down);
    const std::int64_t i0 = within / across * kTile, j0 = within % across * kTile;
    const F* am = a + matrix * p.m * p.k;
    const F* bm = b + matrix * p.k * p.n;
    float sums[kOwn][kOwn] = {};
    for (std::int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
      for (int e = t; e < kTile * kDepth; e += kThreads) {
        // Neighbouring threads read along whichever dimension is contiguous.
        const int ai = p.a_col == 1 ? e / kDepth : e % kTile, ak = p.a_col == 1 ? e % kDepth : e / kTile;
        const int bj = p.b_row == 1 ? e / kDepth : e % kTile, bk = p.b_row == 1 ? e % kDepth : e / kTile;
        as[ak][ai] =
            i0 + ai < p.m && k0 + ak < p.k ? widen(am[(i0 + ai) * p.a_row + (k0 + ak) * p.a_col]) : 0;
        bs[bk][bj] =
            j0 + bj < p.n && k0 + bk < p.k ? widen(bm[(k0 + bk) * p.b_row + (j0 + bj) * p.b_col]) : 0;
      }
      __syncthreads();
      const int depth = static_cast<int>(p.k - k0 < kDepth ? p.k - k0 : kDepth);
      for (int k = 0; k < depth; ++k)
#pragma unroll
        for (int y = 0; y < kOwn; ++y)
#pragma unroll
          for (int x = 0; x < kOwn; ++x) sums[y][x] += as[k][row + 16 * y] * bs[k][col + 16 * x];
      __syncthreads();
    }
#pragma unroll
    for (int y = 0; y < kOwn; ++y)
#pragma unroll
      for (int x = 0; x < kOwn; ++x) {
        const std::int64_t i = i0 + row + 16 * y, j = j0 + col + 16 * x;
        if (i >= p.m || j >= p.n) continue;
        const std::int64_t at = (matrix * p.m + i) * p.n + j;
        float z = p.alpha * sums[y][x];
        if (bias) z += widen(bias[j]);
        if (pre) pre[at] = narrow<R>(z);
        if (p.gelu_tanh) z = 0.5f * z * (1 + tanhf(0.7978845608f * (z + 0.044715f * z * z * z)));
        if (p.beta != 0) z += p.beta * widen(c[at]);
        c[at] = narrow<R>(z);
      }
  }
}

template <class F, class R>
void start(CudaBackend& backend, const Product& p) {
  const Problem problem = {p.batch,
                           p.m,
                           p.n,
                           p.k,
                           p.transpose_a ? 1 : p.k,
                           p.transpose_a ? p.m : 1,
                           p.transpose_b ? 1 : p.n,
                           p.transpose_b ? p.k : 1,
                           p.alpha,
                           p.beta,
                           p.gelu_tanh};
  const std::int64_t tiles = p.batch * ((p.m + kTile - 1) / kTile) * ((p.n + kTile - 1) / kTile);
  if (tiles == 0) return;
  launch(backend.stream(), {backend.blocks_for(tiles), kThreads}, plain_kernel<F, R>, problem,
         static_cast<const F*>(p.a), static_cast<const F*>(p.b), static_cast<const R*>(p.bias),
         static_cast<R*>(p.pre), static_cast<R*>(p.c));
}

// Floor: one writing of c.
template <class R>
__global__ void spread_kernel(const R* bias, R* c, std::int64_t rows, std::int64_t cols) {
  SPECTRAIN_GRID_LOOP(i, rows * cols) c[i] = bias[i % cols];
}

}  // namespace

void plain_product(CudaBackend& backend, const Product& p) {
  const bool wide = p.result == DType::f32;
  if (p.factors == DType::f32 && wide) return start<float, float>(backend, p);
  if (p.factors == DType::bf16 && wide) return start<bf16, float>(backend, p);
  if (p.factors == DType::f16 && wide) return start<f16, float>(backend, p);
  if (p.factors == DType::bf16 && p.result == DType::bf16) return start<bf16, bf16>(backend, p);
  if (p.factors == DType::f16 && p.result == DType::f16) return start<f16, f16>(backend, p);
  throw std::logic_error("a product of " + std::string(name_of(p.factors)) + " is not made in " +
                         std::string(name_of(p.result)));
}

void spread_bias(CudaBackend& backend, const Product& p) {
  const Grid grid = {backend.blocks_for((p.m * p.n + kThreads - 1) / kThreads), kThreads};
  with_iterated(Tensor(p.c, p.result, {p.m, p.n}), "the bias of a product", [&](auto* c) {
    using R = Element<decltype(c)>;
    launch(backend.stream(), grid, spread_kernel<R>, static_cast<const R*>(p.bias), c, p.m, p.n);
  });
}

}  // namespace spectrain
