#include "tests/cuda_emulator/fragments.h"

#include <cstring>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/mma.h"

namespace spectrain::emulator {
namespace {

constexpr int kSide = 16;

// Row i of matrix m (0: upper left, 1: lower left, 2: upper right, 3: lower right) of a 16x16 block.
const std::uint16_t* row_of(const std::uint16_t* block, int lane) {
  return block + (lane % 8 + lane / 8 % 2 * 8) * kSide + lane / 16 * 8;
}

template <class T>
void multiply_kernel(const std::uint16_t* a, const std::uint16_t* b, bool transposed, float* c) {
  auto* sa = static_cast<std::uint16_t*>(dynamic_shared());
  auto* sb = sa + kSide * kSide;
  const int lane = static_cast<int>(threadIdx.x);
  copy_async(sa + 8 * lane, a + 8 * lane);
  copies_commit();
  copy_async(sb + 8 * lane, b + 8 * lane);
  copies_commit();
  copies_wait<0>();
  __syncwarp();
  std::uint32_t fa[4], fb[4];
  load_matrices(fa, row_of(sa, lane));
  // b[k,n] as it lies has k as rows, the fragment wants pairs of k together: transposed on the way. b^T lies
  // with n as rows and needs no more than its two off-diagonal matrices exchanged.
  if (transposed)
    load_matrices(fb, row_of(sb, lane));
  else
    load_matrices_transposed(fb, row_of(sb, lane));
  for (int half = 0; half < 2; ++half) {
    float sum[4] = {0, 0, 0, 0};
    const std::uint32_t b0 = fb[transposed ? half : 2 * half], b1 = fb[transposed ? half + 2 : 2 * half + 1];
    if constexpr (std::is_same_v<T, bf16>)
      mma_bf16(sum, fa, b0, b1);
    else
      mma_f16(sum, fa, b0, b1);
    for (int i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * kSide + 8 * half + lane % 4 * 2 + i % 2] = sum[i];
  }
}

template <class T>
void round_kernel(const float* x, std::int64_t n, T* out) {
  for (std::int64_t i = threadIdx.x; 2 * i < n; i += kWarp) {
    const float high = 2 * i + 1 < n ? x[2 * i + 1] : 0;
    const std::uint32_t pair = std::is_same_v<T, bf16> ? pack_bf16(x[2 * i], high) : pack_f16(x[2 * i], high);
    out[2 * i].bits = static_cast<std::uint16_t>(pair & 0xffffu);
    if (2 * i + 1 < n) out[2 * i + 1].bits = static_cast<std::uint16_t>(pair >> 16);
  }
}

void read_kernel(const float* x, int groups_open, float* out) {
  auto* shared = static_cast<float*>(dynamic_shared());
  const int at = 4 * static_cast<int>(threadIdx.x);
  copy_async(shared + at, x + at, at < 12);
  copies_commit();
  if (groups_open == 0)
    copies_wait<0>();
  else
    copies_wait<1>();
  for (int i = 0; i < 4; ++i) out[at + i] = shared[at + i];
  copies_wait<0>();
}

void run(std::size_t threads, std::size_t shared, std::function<void()> body) {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "making a stream");
  launch(stream, dim3(1), dim3(static_cast<unsigned>(threads)), shared, nullptr, std::move(body));
  check_cuda(cudaStreamSynchronize(stream), "waiting");
  check_cuda(cudaStreamDestroy(stream), "ending a stream");
}

}  // namespace

void multiply_fragments(const Tensor& a, const Tensor& b, bool transposed, const Tensor& c) {
  const auto *pa = static_cast<const std::uint16_t*>(a.data), *pb = static_cast<const std::uint16_t*>(b.data);
  float* pc = c.as<float>();
  const bool brain = a.dtype == DType::bf16;
  run(kWarp, 2 * kSide * kSide * 2, [=] {
    brain ? multiply_kernel<bf16>(pa, pb, transposed, pc) : multiply_kernel<f16>(pa, pb, transposed, pc);
  });
}

void round_in_pairs(const Tensor& x, const Tensor& out) {
  const float* from = x.as<float>();
  const std::int64_t n = x.numel();
  run(kWarp, 0, [=] {
    if (out.dtype == DType::bf16)
      round_kernel(from, n, static_cast<bf16*>(out.data));
    else
      round_kernel(from, n, static_cast<f16*>(out.data));
  });
}

void read_after_copy(const Tensor& x, int groups_open, const Tensor& out) {
  const float* from = x.as<float>();
  float* to = out.as<float>();
  run(4, 64, [=] { read_kernel(from, groups_open, to); });
}

}  // namespace spectrain::emulator
