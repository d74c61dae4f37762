#include <algorithm>

#include "kernels/cpu/matrix_state.h"
#include "kernels/cpu/parallel.h"

// Cutting a product into tasks for the threads, and running them.

namespace spectrain {
namespace {

// C in blocks of block_m x block_n, one task each; the contraction in pieces of kc.
struct GemmPlan {
  std::int64_t block_m = 0, block_n = 0, kc = 0;
  std::int64_t blocks_m = 0, blocks_n = 0;
  bool rows_first = false;  // consecutive tasks walk down C: they share B's block, not A's
  int team = 1;             // threads worth waking
};

// Blocks of C, and pieces of the contraction in words of 4 bytes, so that a block's panels of A and 256
// columns' panels of B nearly fit a second-level cache of 1 MiB; sums of unfinished blocks are touched seldom
// enough to live further out. Where B is packed in the call, a block has more rows to share that work.
// Measured on Zen 4.
constexpr std::int64_t kPackedM = 192, kPackedN = 768, kPackedPiece = 384;  // with a prepared B
constexpr std::int64_t kFreshM = 384, kFreshN = 512, kFreshPiece = 256;     // with B as it is in memory
constexpr std::int64_t kSymmetricBlock = 192;  // a multiple of both tile sides in every instruction set

constexpr std::size_t kScratchA = kFreshM * kFreshPiece * 4;
constexpr std::size_t kScratchB = 256 * kFreshPiece * 4;
constexpr std::size_t kScratchC = kFreshM * kFreshN * 4;
constexpr std::size_t kScratchBytes = kScratchA + kScratchB + kScratchC;
static_assert(kPackedM * kPackedPiece <= kFreshM * kFreshPiece && kPackedM * kPackedN <= kFreshM * kFreshN);

// Below this many operations (about ten microseconds on one core) waking another thread costs more than it
// saves.
constexpr double kWorthATeam = 1e6;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
std::int64_t round_up(std::int64_t a, std::int64_t b) { return ceil_div(a, b) * b; }

// `size` in equal parts of at most `most`, each a multiple of `unit`.
std::int64_t even_part(std::int64_t size, std::int64_t most, std::int64_t unit) {
  const std::int64_t parts = std::max<std::int64_t>(1, ceil_div(size, most));
  return std::max(unit, round_up(ceil_div(size, parts), unit));
}

GemmPlan plan(const GemmProblem& p, const GemmKernels& kernels, int threads, bool square) {
  GemmPlan plan;
  const double operations =
      2.0 * static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  plan.team = operations < kWorthATeam ? 1 : threads;
  plan.kc = even_part(p.k, (p.b_panels ? kPackedPiece : kFreshPiece) * kernels.k_step, kernels.k_step);
  plan.block_m = even_part(p.m, p.b_panels ? kPackedM : kFreshM, kernels.rows);
  plan.block_n = even_part(p.n, p.b_panels ? kPackedN : kFreshN, kernels.cols);
  const auto tasks = [&] { return ceil_div(p.m, plan.block_m) * ceil_div(p.n, plan.block_n); };
  if (square) {
    plan.block_m = plan.block_n = p.m <= kSymmetricBlock * 4 ? kSymmetricBlock / 2 : kSymmetricBlock;
  } else if (plan.team > 1) {
    // Enough tasks that a thread slowed by another process does not hold up the rest, as long as they are not
    // tiny.
    const std::int64_t wanted = 4 * plan.team;
    while (tasks() < wanted && plan.block_n > 2 * kernels.cols)
      plan.block_n = even_part(p.n, plan.block_n / 2, kernels.cols);
    while (tasks() < wanted && plan.block_m > 2 * kernels.rows)
      plan.block_m = even_part(p.m, plan.block_m / 2, kernels.rows);
  }
  plan.blocks_m = ceil_div(p.m, plan.block_m);
  plan.blocks_n = ceil_div(p.n, plan.block_n);
  plan.rows_first = p.n > p.m;  // the larger operand passes once
  plan.team = static_cast<int>(std::min<std::int64_t>(plan.team, plan.blocks_m * plan.blocks_n));
  return plan;
}

GemmBlock block_of(const GemmProblem& p, const GemmPlan& plan, std::int64_t task) {
  const std::int64_t i = plan.rows_first ? task % plan.blocks_m : task / plan.blocks_n;
  const std::int64_t j = plan.rows_first ? task / plan.blocks_m : task % plan.blocks_n;
  return {i * plan.block_m, std::min(p.m, (i + 1) * plan.block_m), j * plan.block_n,
          std::min(p.n, (j + 1) * plan.block_n)};
}

}  // namespace

CpuBackend::Matrices::Matrices(CpuBackend& backend)
    : backend_(backend),
      machine_(matrix_machine(backend.use_onednn_)),
      onednn_([this](std::size_t bytes) { return grown(workspace_, bytes); }) {}

const GemmKernels& CpuBackend::Matrices::kernels_for(Isa isa, DType compute) {
  const GemmTable& table = SPECTRAIN_ISA_SELECT(gemm_table);
  return compute == DType::bf16 && isa == Isa::avx512_bf16 ? table.pairs : table.f32;
}

std::size_t CpuBackend::working_bytes() const { return kScratchBytes * static_cast<std::size_t>(threads_); }

void CpuBackend::Matrices::reserve_scratch() {
  if (!scratch_)
    scratch_ = backend_.allocate(backend_.working_bytes(), "packing memory of the matrix products");
}

GemmScratch CpuBackend::Matrices::scratch_of(int thread) const {
  std::byte* at =
      static_cast<std::byte*>(scratch_->data()) + kScratchBytes * static_cast<std::size_t>(thread);
  return {at, at + kScratchA, reinterpret_cast<float*>(at + kScratchA + kScratchB)};
}

void CpuBackend::Matrices::multiply(const GemmProblem& p, DType compute, const RowPass& pass) {
  if (p.m == 0 || p.n == 0) return;
  reserve_scratch();
  const GemmKernels& kernels = kernels_for(compute);
  const GemmPlan cut = plan(p, kernels, backend_.threads(), false);
  const std::int64_t tasks = cut.blocks_m * cut.blocks_n, size = p.c_bf16 ? 2 : 4;
  parallel_tasks(cut.team, tasks, [&](std::int64_t task, int thread) {
    const GemmBlock block = block_of(p, cut, task);
    kernels.block(p, block, cut.kc, scratch_of(thread));
    if (!pass.run) return;
    for (std::int64_t i = block.m0; i < block.m1; ++i) {
      const std::int64_t at = (i * p.ldc + block.n0) * size;
      pass.run(static_cast<const std::byte*>(p.c) + at, static_cast<std::byte*>(pass.to) + at,
               block.n1 - block.n0);
    }
  });
}

void CpuBackend::Matrices::multiply_symmetric(const GemmProblem& p, DType compute) {
  if (p.m == 0) return;
  reserve_scratch();
  const GemmKernels& kernels = kernels_for(compute);
  const GemmPlan cut = plan(p, kernels, backend_.threads(), true);
  const std::int64_t side = cut.blocks_m;
  // Blocks on and below the diagonal, row by row. A block's mirror image is no other block's output, so no
  // task waits for another.
  parallel_tasks(cut.team, side * side, [&](std::int64_t task, int thread) {
    const GemmBlock block = block_of(p, cut, task);
    if (block.n0 > block.m0) return;
    kernels.block(p, block, cut.kc, scratch_of(thread));
    kernels.mirror(p, block);
  });
}

void CpuBackend::Matrices::mirror(const Tensor& c) {
  GemmProblem p;
  p.m = p.n = c.rows();
  p.c = c.data, p.c_bf16 = c.dtype == DType::bf16, p.ldc = c.cols();
  const std::int64_t strips = ceil_div(p.m, kSymmetricBlock);
  parallel_tasks(backend_.threads(), strips, [&](std::int64_t i, int) {
    const std::int64_t m1 = std::min(p.m, (i + 1) * kSymmetricBlock);
    kernels_for(c.dtype).mirror(p, {i * kSymmetricBlock, m1, 0, m1});
  });
}

}  // namespace spectrain
