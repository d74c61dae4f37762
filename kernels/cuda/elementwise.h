#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/convert.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/words.h"

// Kernels that take every element by itself, four at a time where the tensors' addresses allow it. Only for
// .cu files.

namespace spectrain {

constexpr int kElementThreads = 256;

// body.template some<N>(i) does elements [i, i + N); each thread of the grid takes some, N at a time, and the
// few left over one by one.
template <int N, class Body>
__global__ void __launch_bounds__(kElementThreads) elementwise_kernel(Body body, std::int64_t n) {
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kElementThreads + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kElementThreads;
  for (std::int64_t i = first; i < n / N; i += stride) body.template some<N>(i * N);
  for (std::int64_t i = n / N * N + first; i < n; i += stride) body.template some<1>(i);
}

// `aligned`: every tensor of the body may be taken four elements at a time.
template <class Body>
void launch_elementwise(const CudaBackend& b, const Body& body, std::int64_t n, bool aligned) {
  if (n == 0) return;
  const std::int64_t each = aligned ? 4 : 1, threads = std::max<std::int64_t>(n / each, 1);
  const Grid grid{b.blocks_for((threads + kElementThreads - 1) / kElementThreads), kElementThreads};
  launch(b.stream(), grid, aligned ? elementwise_kernel<4, Body> : elementwise_kernel<1, Body>, body, n);
}

}  // namespace spectrain
