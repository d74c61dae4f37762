#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "optim/groups.h"
#include "optim/matrix_rule.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/optim/problem.h"

// Matrices of one shape go through a matrix rule together where the backend asks for it. The emulated GPU
// asks for several, the CPU for one.

namespace spectrain {
namespace {

#if defined(__SANITIZE_THREAD__)
constexpr bool kEmulator = false;  // one thread with many stacks is not understood
#else
constexpr bool kEmulator = true;
#endif

struct Case {
  DType precision;
  NewtonSchulzForm form;
};
OptimizerConfig muon(const Case& c, double lr = 0.05) {
  MuonOptions o;
  o.lr = lr;
  o.weight_decay = 0.1;
  o.shape_scale = ShapeScale::unit_rms;
  o.newton_schulz = {NewtonSchulzTable::polar_express_105, 0, c.precision, c.form};
  return {{{{Role::hidden}, o}}, 0};
}

// The hidden matrices of a small model: squares from three fused and two single parameters, wide and tall
// ones, and one of a shape of its own.
void add_matrices(Problem& p) {
  for (int layer = 0; layer < 3; ++layer) {
    const std::string h = "h." + std::to_string(layer) + ".";
    p.add(h + "qkv", {72, 24}, Role::hidden, {24, 24, 24});
    if (layer < 2) p.add(h + "projection", {24, 24}, Role::hidden);
    p.add(h + "up", {96, 24}, Role::hidden);
    p.add(h + "down", {24, 96}, Role::hidden);
  }
  p.add("odd", {13, 29}, Role::hidden);
}

void set_gradients(Problem& p, std::uint64_t seed) {
  for (std::size_t i = 0; i < p.views().size(); ++i) {
    const Shape& shape = p.views()[i].info->shape;
    p.set_gradient(i, gaussian(shape[0], shape[1], seed * 100 + i));
  }
}

TEST(MatrixBatches, EqualShapesTogetherInEqualChunks) {
  if (!kEmulator) GTEST_SKIP() << "the emulator does not run under the thread sanitizer";
  const auto gpu = backend_named("cuda"), cpu = backend_named("cpu");
  std::vector<Shape> shapes(19, Shape{24, 24});
  shapes.insert(shapes.begin() + 3, Shape{24, 96});
  const std::int64_t most = gpu->matrices_at_once({24, 24});
  ASSERT_GT(most, 1);
  const auto batches = batches_of(shapes, *gpu);
  std::vector<std::size_t> all;
  std::size_t smallest = 100, largest = 0;
  for (const auto& batch : batches) {
    for (const std::size_t i : batch) {
      all.push_back(i);
      EXPECT_EQ(shapes[i], shapes[batch.front()]);
    }
    if (shapes[batch.front()] != shapes.front()) continue;
    smallest = std::min(smallest, batch.size());
    largest = std::max(largest, batch.size());
  }
  EXPECT_EQ(batches.size(), 1 + static_cast<std::size_t>((19 + most - 1) / most));
  EXPECT_LE(largest, static_cast<std::size_t>(most));
  EXPECT_LE(largest - smallest, 1u);
  std::sort(all.begin(), all.end());
  for (std::size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], i);
  EXPECT_EQ(all.size(), shapes.size());
  for (const auto& batch : batches_of(shapes, *cpu)) EXPECT_EQ(batch.size(), 1u);
}

// Every matrix gets its own update: the CPU's, one by one, in float32, and in 16 bits the same within what
// the precision leaves of a direction (newton_schulz_test.cpp: 0.03 in bf16, of factors with rows of norm 1).
TEST(MatrixBatches, StepsOnAGpuEqualTheCpus) {
  if (!kEmulator) GTEST_SKIP() << "the emulator does not run under the thread sanitizer";
  for (const Case& c : {Case{DType::f32, NewtonSchulzForm::standard},
                        {DType::bf16, NewtonSchulzForm::standard},
                        {DType::f16, NewtonSchulzForm::gram}}) {
    Problem gpu("cuda"), cpu("cpu");
    add_matrices(gpu);
    add_matrices(cpu);
    Optimizer on_gpu(*gpu.backend, gpu.views(), muon(c));
    Optimizer on_cpu(*cpu.backend, cpu.views(), muon({DType::f32, NewtonSchulzForm::standard}));
    for (int step = 0; step < 2; ++step) {
      set_gradients(gpu, 1 + static_cast<std::uint64_t>(step));
      set_gradients(cpu, 1 + static_cast<std::uint64_t>(step));
      EXPECT_EQ(on_gpu.step(step, 1).matrices, 18);
      on_cpu.step(step, 1);
    }
    for (std::size_t i = 0; i < gpu.views().size(); ++i) {
      const double limit = c.precision == DType::f32 ? 1e-4 : c.precision == DType::bf16 ? 0.04 : 0.01;
      EXPECT_LT(relative_difference(gpu.value(i), cpu.value(i)), limit)
          << gpu.views()[i].info->name << " " << name_of(c.precision);
    }
  }
}

// What is planned is allocated, no step allocates, and nothing of an update waits for the device.
TEST(MatrixBatches, MemoryAndWaitsOnAGpu) {
  if (!kEmulator) GTEST_SKIP() << "the emulator does not run under the thread sanitizer";
  Problem p("cuda");
  add_matrices(p);
  const OptimizerConfig config = muon({DType::f16, NewtonSchulzForm::gram});
  const std::size_t before = p.backend->allocated_bytes();
  Optimizer o(*p.backend, p.views(), config);
  const std::vector<ParameterInfo> infos = p.infos();
  EXPECT_EQ(p.backend->allocated_bytes() - before,
            Optimizer::state_bytes(infos, config, p.backend->master()) +
                Optimizer::workspace_bytes(infos, config, *p.backend));
  set_gradients(p, 3);
  o.update(0, 1, 1.0);
  p.backend->synchronize();
  const emulator::Counts counts = emulator::counts();
  o.update(1, 1, 1.0);
  EXPECT_EQ(emulator::counts().synchronizations, counts.synchronizations);
  EXPECT_EQ(emulator::counts().allocations, counts.allocations);
  p.backend->synchronize();
}

}  // namespace
}  // namespace spectrain
