#include "kernels/cpu/checks.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/norm_rows.h"

// The norms' forward pass, with the residual's addition before it or without. Floor: one reading of x (or of
// both summands) and one writing of y (and of the sum). A row is read once and stays in registers, as it
// came; gain and bias come from the nearest cache. The mean is known before the squares are summed, for the
// mean of squares less the square of the mean cancels. Every row is by itself: the number of blocks changes
// no bit.

namespace spectrain {
namespace {

struct ForwardArgs {
  const void *a, *b;  // null: no addition
  void* x;            // the sum, or what norm() was given
  const float *gain, *bias;
  void* y;
  float *mean, *rstd;
  std::int64_t rows, cols;
  float eps;
  bool layer;
  std::uint32_t zero = 0;  // forget_floats()
};

constexpr int kWarps = 8;         // rows a block works at, where a warp is enough for one
constexpr int kBlocks = 1 << 14;  // of each multiprocessor: one for every rows, given out as others end
constexpr int kLargestBlock = 512;

// One function for norm and add_norm, so that the two agree bit for bit.
template <class T, int P, int N, bool kBlock>
__global__ void __launch_bounds__(kBlock ? kLargestBlock : kWarps* kWarp) norm_kernel(ForwardArgs p) {
  __shared__ float store[2][2][kWarp];
  Team<T, P, N, kBlock> team(p.cols, store);
  const float per_column = 1.0f / static_cast<float>(p.cols);
  const int teams = team.teams_in_block();
  for (std::int64_t r = std::int64_t{blockIdx.x} * teams + team.number(); r < p.rows;
       r += std::int64_t{gridDim.x} * teams) {
    Packed<T, P> x[N];
    T* row = static_cast<T*>(p.x) + r * p.cols;
    if (p.a) {
      Packed<T, P> b[N];
      team.load(static_cast<const T*>(p.a) + r * p.cols, x);
      team.load(static_cast<const T*>(p.b) + r * p.cols, b);
      team.for_each([&](int i, std::int64_t c) {
        float sum[P];
#pragma unroll
        for (int k = 0; k < P; ++k) sum[k] = x[i].at(k) + b[i].at(k);
        x[i].set(sum);
        x[i].store(row + c);
      });
    } else {
      team.load(row, x);
    }
    float mean = 0;
    if (p.layer) {
      float sum = 0;
      team.for_each([&](int i, std::int64_t) {
#pragma unroll
        for (int k = 0; k < P; ++k) sum += x[i].at(k);
      });
      mean = team.sum(sum) * per_column;
    }
    team.forget(x, p.zero);
    float squares = 0;
    team.for_each([&](int i, std::int64_t) {
#pragma unroll
      for (int k = 0; k < P; ++k) {
        const float d = x[i].at(k) - mean;
        squares += d * d;
      }
    });
    const float rstd = 1.0f / sqrtf(team.sum(squares) * per_column + p.eps);
    if (team.thread == 0) {
      if (p.mean) p.mean[r] = mean;
      if (p.rstd) p.rstd[r] = rstd;
    }
    team.forget(x, p.zero);
    team.for_each([&](int i, std::int64_t c) {
      float value[P], of_column[P];
#pragma unroll
      for (int k = 0; k < P; ++k) value[k] = (x[i].at(k) - mean) * rstd;
      if (p.gain) {
        load_floats(p.gain + c, of_column);
#pragma unroll
        for (int k = 0; k < P; ++k) value[k] *= of_column[k];
      }
      if (p.bias) {
        load_floats(p.bias + c, of_column);
#pragma unroll
        for (int k = 0; k < P; ++k) value[k] += of_column[k];
      }
      Packed<T, P> y;
      y.set(value);
      y.store(static_cast<T*>(p.y) + r * p.cols + c);
    });
  }
}

// Rows that no block's registers hold: read again for each of the three loops, mostly from the second cache.
template <class T>
__global__ void __launch_bounds__(512) norm_of_long_rows_kernel(ForwardArgs p) {
  __shared__ float store[2][2][kWarp];
  Team<T, 1, 1, true> team(p.cols, store);
  const float per_column = 1.0f / static_cast<float>(p.cols);
  for (std::int64_t r = blockIdx.x; r < p.rows; r += gridDim.x) {
    T* x = static_cast<T*>(p.x) + r * p.cols;
    T* y = static_cast<T*>(p.y) + r * p.cols;
    if (p.a) {
      const T *a = static_cast<const T*>(p.a) + r * p.cols, *b = static_cast<const T*>(p.b) + r * p.cols;
      for (std::int64_t c = threadIdx.x; c < p.cols; c += blockDim.x)
        x[c] = narrow<T>(widen(a[c]) + widen(b[c]));
    }
    float mean = 0;
    if (p.layer) {
      float sum = 0;
      for (std::int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) sum += widen(x[c]);
      mean = team.sum(sum) * per_column;
    }
    float squares = 0;
    for (std::int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) {
      const float d = widen(x[c]) - mean;
      squares += d * d;
    }
    const float rstd = 1.0f / sqrtf(team.sum(squares) * per_column + p.eps);
    if (threadIdx.x == 0) {
      if (p.mean) p.mean[r] = mean;
      if (p.rstd) p.rstd[r] = rstd;
    }
    for (std::int64_t c = threadIdx.x; c < p.cols; c += blockDim.x) {
      const float value = (widen(x[c]) - mean) * rstd * (p.gain ? p.gain[c] : 1.0f);
      y[c] = narrow<T>(p.bias ? value + p.bias[c] : value);
    }
  }
}

template <class T>
using Kernel = void (*)(ForwardArgs);

// The kernel with as few packs to a thread as the row needs.
template <class T>
Kernel<T> kernel_for_warps(std::int64_t packs) {
  constexpr int P = kPack<T>;
  switch ((packs + kWarp - 1) / kWarp) {
    case 1:
      return norm_kernel<T, P, 1, false>;
    case 2:
      return norm_kernel<T, P, 2, false>;
    case 3:
      return norm_kernel<T, P, 3, false>;
    case 4:
      return norm_kernel<T, P, 4, false>;
    case 5:
    case 6:
      return norm_kernel<T, P, 6, false>;
    case 7:
    case 8:
      return norm_kernel<T, P, 8, false>;
    default:
      return nullptr;
  }
}

template <class T>
void run(CudaBackend& backend, const ForwardArgs& p) {
  if (p.rows == 0 || p.cols == 0) return;
  constexpr int kPacks = 4, kElements = 4;  // to a thread, in a block
  const bool packs = all_packable<T>(p.cols, {p.a, p.b, p.x, p.y}, {p.gain, p.bias});
  const auto by_block = [&](Kernel<T> kernel, std::int64_t threads) {
    launch(backend.stream(), {backend.blocks_for(p.rows, kBlocks), static_cast<unsigned>(threads)}, kernel,
           p);
  };
  if (packs) {
    if (const Kernel<T> kernel = kernel_for_warps<T>(p.cols / kPack<T>))
      return launch(backend.stream(),
                    {backend.blocks_for((p.rows + kWarps - 1) / kWarps, kBlocks), kWarps * kWarp}, kernel, p);
    const std::int64_t threads = threads_for(p.cols / kPack<T>, kPacks);
    if (threads <= kLargestBlock) return by_block(norm_kernel<T, kPack<T>, kPacks, true>, threads);
  }
  const std::int64_t threads = threads_for(p.cols, kElements);
  if (threads <= kLargestBlock) return by_block(norm_kernel<T, 1, kElements, true>, threads);
  by_block(norm_of_long_rows_kernel<T>, 512);
}

void forward(CudaBackend& backend, const char* kernel, NormKind kind, const Tensor& a, const Tensor& b,
             const Tensor& x, const Tensor& gain, const Tensor& bias, double eps, const Tensor& y,
             const Tensor& mean, const Tensor& rstd) {
  const std::int64_t R = x.rows(), C = x.cols();
  const bool layer = kind == NormKind::layer;
  require_compute(x, kernel, "x");
  require_same(x, y, kernel, "x and y");
  require_vector(gain, DType::f32, C, true, kernel, "gain");
  require_vector(bias, DType::f32, C, true, kernel, "bias");
  if (layer) require_vector(mean, DType::f32, R, true, kernel, "mean");
  require_vector(rstd, DType::f32, R, true, kernel, "rstd");
  const auto vector = [](const Tensor& t) { return static_cast<float*>(t.data); };
  const ForwardArgs p{a.data,
                      b.data,
                      x.data,
                      vector(gain),
                      vector(bias),
                      y.data,
                      layer ? vector(mean) : nullptr,
                      vector(rstd),
                      R,
                      C,
                      static_cast<float>(eps),
                      layer};
  with_compute(x, kernel, [&](auto* in) { run<Element<decltype(in)>>(backend, p); });
}

}  // namespace

void CudaBackend::norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias, double eps,
                       const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  forward(*this, "norm", kind, {}, {}, x, gain, bias, eps, y, mean, rstd);
}

void CudaBackend::add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain,
                           const Tensor& bias, double eps, const Tensor& sum, const Tensor& y,
                           const Tensor& mean, const Tensor& rstd) {
  require_same(a, b, "add_norm", "a and b");
  require_same(a, sum, "add_norm", "a and sum");
  forward(*this, "add_norm", kind, a, b, sum, gain, bias, eps, y, mean, rstd);
}

}  // namespace spectrain
