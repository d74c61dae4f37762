#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/collectives.h"
#include "kernels/cuda_plugin.h"
#include "model/program.h"
#include "model/transformer.h"
#include "optim/distributed_optimizer.h"
#include "tests/cuda_emulator/emulator.h"

// Whole training steps on the CUDA backend, on the emulated GPU and on a real one where there is one: what is
// promised of a run, not of a kernel.

namespace spectrain {
namespace {

constexpr std::int64_t kContext = 20, kBatch = 2;

struct Device {
  std::string name;
  bool emulated;
};
void PrintTo(const Device& d, std::ostream* out) { *out << d.name; }

TransformerConfig gpt2() {
  TransformerConfig c;
  c.vocab = 100;
  c.context = kContext;
  c.layers = 2;
  c.width = 64;
  c.heads = 1;
  c.mlp_width = 128;
  return c.resolved();
}
TransformerConfig modern() {
  TransformerConfig c = gpt2();
  c.positions = Positions::rotary;
  c.qk_norm = true;
  c.norm = NormKind::rms;
  c.mlp = MlpKind::relu2;
  c.tied = false;
  c.embedding_norm = true;
  c.softcap = {Softcap::Kind::rational, 15, 1, 0};
  return c.resolved();
}
TransformerConfig llama() {
  TransformerConfig c = gpt2();
  c.positions = Positions::rotary;
  c.width = 128;
  c.layers = 1;
  c.heads = 2;
  c.kv_heads = 1;
  c.norm = NormKind::rms;
  c.mlp = MlpKind::swiglu;
  c.mlp_width = 192;
  c.linear_bias = false;
  c.tied = false;
  return c.resolved();
}

OptimizerConfig rules(MuonOptions muon = {}) {
  OptimizerConfig o;
  muon.lr = 0.01;
  muon.newton_schulz.steps = 2;  // an emulated product takes its time
  AdamWOptions adamw;
  adamw.lr = 0.003;
  o.groups = {{{Role::hidden}, muon}, {{Role::embedding, Role::head, Role::gain, Role::bias}, adamw}};
  return o;
}

// A sequence that can be learned a little: each token follows from the one before, with some noise.
std::vector<std::int32_t> tokens(int step, bool next) {
  std::vector<std::int32_t> list;
  for (std::int64_t row = 0; row < kBatch; ++row)
    for (std::int64_t i = 0; i < kContext; ++i) {
      const std::uint64_t at =
          static_cast<std::uint64_t>((step * kBatch + row) * (kContext + 1) + i + (next ? 1 : 0));
      list.push_back(static_cast<std::int32_t>((at * 7 + random_u32({5, 5}, at) % 3) % 100));
    }
  return list;
}

// One rank of training: everything a step needs.
class Trained {
 public:
  Trained(std::unique_ptr<Backend> backend, const TransformerConfig& model, DType compute,
          const OptimizerConfig& optimizer = rules())
      : backend_(std::move(backend)), collectives_(make_single_collectives()) {
    const Value losses = transformer(tape_, model, kBatch, kContext);
    parameters_ = std::make_unique<Parameters>(tape_, *backend_, compute, true);
    ProgramOptions options;
    options.compute = compute;
    program_ = std::make_unique<Program>(tape_, losses, *parameters_, options);
    optimizer_ = std::make_unique<DistributedOptimizer>(*backend_, *parameters_, optimizer, *collectives_,
                                                        DistributedOptions{});
    loss_ = backend_->allocate(sizeof(double), "the loss");
    optimizer_->initialize(3);
  }
  // Calls between operations keep a program from being recorded.
  void keep_eager() {
    program_->set_hooks({[](std::size_t) {}, {}});
  }
  // The mean loss of a step of two micro-batches.
  double step(int step) {
    const auto result = ask(step);
    const auto known = result && result->step == step ? result : optimizer_->finish_step();
    EXPECT_TRUE(known && known->report.finite && known->step == step);
    return known ? known->loss / (2 * kBatch * kContext) : NAN;
  }
  // What is known when all of the step is asked for; `more` is added to its loss.
  std::optional<DistributedOptimizer::StepResult> ask(int step, double more = 0, double lr_factor = 1) {
    const Tensor total = loss_->view(DType::f64, {1});
    backend_->fill(total, more);
    for (int micro = 0; micro < 2; ++micro) {
      program_->set_input("tokens", tokens(2 * step + micro, false));
      program_->set_input("targets", tokens(2 * step + micro, true));
      program_->forward_backward(1.0 / (2 * kBatch * kContext), micro > 0);
      program_->add_result_to(total);
    }
    if (std::exchange(spoils_, false)) backend_->fill(parameters_->view(0).gradient, INFINITY);
    return optimizer_->step(step, lr_factor, total, {});
  }
  std::optional<DistributedOptimizer::StepResult> finish() { return optimizer_->finish_step(); }
  void spoil_gradient() { spoils_ = true; }  // of the next step
  void restart() { optimizer_->restart(3); }
  std::vector<float> gradient(std::size_t i) {
    const Tensor g = parameters_->view(i).gradient;
    std::vector<float> values(static_cast<std::size_t>(g.numel()));
    backend_->copy_to_host(values.data(), g);
    return values;
  }
  std::uint64_t hash() const { return parameters_->hash(); }
  std::size_t parameters() const { return parameters_->size(); }
  std::string name(std::size_t i) const { return parameters_->info(i).name; }
  Program& program() { return *program_; }
  Backend& backend() { return *backend_; }

 private:
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Collectives> collectives_;
  Tape tape_;
  std::unique_ptr<Parameters> parameters_;
  std::unique_ptr<Program> program_;
  std::unique_ptr<DistributedOptimizer> optimizer_;
  std::unique_ptr<Buffer> loss_;
  bool spoils_ = false;
};

class CudaTraining : public testing::TestWithParam<Device> {
 protected:
  void SetUp() override {
#if defined(__SANITIZE_THREAD__)
    if (GetParam().emulated)
      GTEST_SKIP() << "one thread with many stacks is not understood by this sanitizer";
#endif
    std::string reason;
    if (!GetParam().emulated && !make_cuda_backend({}, reason)) GTEST_SKIP() << "no GPU: " << reason;
    emulator::set_order(emulator::Order::ascending);
  }
  static std::unique_ptr<Backend> cuda() {
    std::string reason;
    return GetParam().emulated ? make_emulated_cuda_backend() : make_cuda_backend({}, reason);
  }
};

double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += double{a[i]} * double{b[i]};
    aa += double{a[i]} * double{a[i]};
    bb += double{b[i]} * double{b[i]};
  }
  return ab / std::sqrt(aa * bb);
}

TEST_P(CudaTraining, FollowsTheCpuInFloat32) {
  for (const TransformerConfig& model : {gpt2(), modern(), llama()}) {
    Trained cpu(make_cpu_backend({2, true}), model, DType::f32), gpu(cuda(), model, DType::f32);
    for (int step = 0; step < (GetParam().emulated ? 3 : 20); ++step) {
      const double wanted = cpu.step(step), got = gpu.step(step);
      // Sums in another order; Muon makes as much of a small gradient's noise as of a large gradient.
      EXPECT_NEAR(got, wanted, step == 0 ? 2e-6 : 1e-4) << step;
      if (step > 0) continue;
      for (std::size_t i = 0; i < cpu.parameters(); ++i)
        EXPECT_GT(cosine(cpu.gradient(i), gpu.gradient(i)), 1 - 1e-9) << cpu.name(i);
    }
  }
}

TEST_P(CudaTraining, FollowsTheCpuInBfloat16) {
  const int steps = GetParam().emulated ? 6 : 50;
  for (const TransformerConfig& model : {gpt2(), modern(), llama()}) {
    Trained cpu(make_cpu_backend({2, true}), model, DType::f32), gpu(cuda(), model, DType::bf16);
    double first = 0, last = 0;
    for (int step = 0; step < steps; ++step) {
      const double wanted = cpu.step(step), got = gpu.step(step);
      EXPECT_NEAR(got, wanted, 1e-2) << step;
      if (step == 0) first = got;
      last = got;
      if (step > 0) continue;
      for (std::size_t i = 0; i < cpu.parameters(); ++i)
        EXPECT_GT(cosine(cpu.gradient(i), gpu.gradient(i)), 0.999) << cpu.name(i);
    }
    EXPECT_LT(last, first);
  }
}

TEST_P(CudaTraining, ReplayedEqualsEagerBitForBit) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    Trained recorded(cuda(), modern(), compute), eager(cuda(), modern(), compute);
    eager.keep_eager();
    for (int step = 0; step < 4; ++step) EXPECT_EQ(recorded.step(step), eager.step(step)) << step;
    EXPECT_EQ(recorded.hash(), eager.hash());
  }
}

TEST_P(CudaTraining, TheSameSeedGivesTheSameBits) {
  Trained a(cuda(), gpt2(), DType::bf16);
  for (int step = 0; step < 4; ++step) a.step(step);
  emulator::set_order(emulator::Order::shuffled);  // a GPU makes no promise in which order its threads run
  Trained b(cuda(), gpt2(), DType::bf16);
  for (int step = 0; step < 4; ++step) b.step(step);
  EXPECT_EQ(a.hash(), b.hash());
}

TEST_P(CudaTraining, AStepWaitsOnceAndAllocatesNothing) {
  if (!GetParam().emulated) GTEST_SKIP() << "calls of the CUDA runtime are counted on the emulated GPU";
  Trained run(cuda(), modern(), DType::bf16);
  for (int step = 0; step < 3; ++step) run.step(step);  // runs, records, replays
  for (int step = 3; step < 6; ++step) {
    const emulator::Counts before = emulator::counts();
    const auto result = run.ask(step);
    const emulator::Counts after = emulator::counts();
    EXPECT_EQ(result.has_value(), step > 3);
    if (result) {
      EXPECT_EQ(result->step, step - 1);
    }
    EXPECT_EQ(after.synchronizations - before.synchronizations, step > 3 ? 1 : 0);
    EXPECT_EQ(after.not_waited_for > 0, step == 3) << "the wait is not the last of the step";
    EXPECT_EQ(after.allocations, before.allocations);
    // One graph for each micro-batch and one for the update with the new weights; by itself: what the sums of
    // a step begin with.
    EXPECT_EQ(after.graph_launches - before.graph_launches, 3);
    EXPECT_EQ(after.launches - before.launches, 8);
  }
  EXPECT_EQ(run.finish()->step, 5);
  EXPECT_FALSE(run.finish());
}

// A rule whose kernels need to know the gradient's norm: the host waits for it, and knows this step.
TEST_P(CudaTraining, ARuleThatNeedsTheHostsDecisionGetsIt) {
  OptimizerConfig o = rules();
  o.groups[0].finish.cautious = true;
  Trained run(cuda(), modern(), DType::bf16, o);
  for (int step = 0; step < 3; ++step) EXPECT_EQ(run.ask(step).value().step, step);
  EXPECT_FALSE(run.finish());
}

// Which steps count is decided on the device as the host would, clipped and with steps that are skipped; and
// an update that was recorded is that of the step, with its own rates, momentum and corrections.
TEST_P(CudaTraining, TheDeviceDecidesAsTheHostDoes) {
  MuonOptions muon;
  muon.momentum_warmup = {0.5, 4};
  muon.momentum_form = MomentumForm::sum;
  muon.weight_decay = 0.1;
  OptimizerConfig late = rules(muon);
  late.clip = 0.05;
  OptimizerConfig at_once = late;
  at_once.average.from = 1000;  // not within this test; but rules that keep an average need the host
  Trained a(cuda(), modern(), DType::bf16, late), b(cuda(), modern(), DType::bf16, at_once);
  int skipped = 0;
  for (int step = 0; step < 5; ++step) {
    for (Trained* run : {&a, &b})
      if (step == 2) run->spoil_gradient();
    const double lr_factor = 1 - 0.15 * step;
    const auto known = b.ask(step, 0, lr_factor).value();
    a.ask(step, 0, lr_factor);
    const auto found = a.finish().value();
    EXPECT_EQ(found.step, step);
    EXPECT_EQ(found.loss, known.loss);
    EXPECT_EQ(found.report.finite, known.report.finite);
    EXPECT_EQ(found.report.matrices, known.report.matrices);
    if (known.report.finite) {
      EXPECT_EQ(found.report.gradient_norm, known.report.gradient_norm);
      EXPECT_GT(known.report.gradient_norm, late.clip) << "nothing is clipped";
    }
    skipped += found.report.finite ? 0 : 1;
    EXPECT_EQ(a.hash(), b.hash()) << step;
  }
  EXPECT_EQ(skipped, 1);
}

// The sums may lie elsewhere the next time: what was recorded of the old place is not replayed.
TEST_P(CudaTraining, AnUpdateFindsItsSumsWhereTheyAre) {
  const auto weights_after = [&](bool moves) {
    const auto backend = cuda();
    Tape tape;
    transformer(tape, gpt2(), kBatch, kContext);
    Parameters parameters(tape, *backend, DType::f32, true);
    parameters.initialize(3);
    Optimizer optimizer(*backend, parameters.views(), rules());
    const auto memory = backend->allocate(4 * sizeof(double), "sums");
    for (std::size_t i = 0; i < parameters.size(); ++i)
      backend->fill_normal(parameters.view(i).gradient, {7, i}, 0, 1);
    for (int step = 0; step < 6; ++step) {
      const auto at = [&](int i) {
        const int place = moves && step >= 3 ? 3 - i : i;
        return memory->view(DType::f64, {1}, static_cast<std::size_t>(place) * sizeof(double));
      };
      for (int i = 0; i < 4; ++i) backend->fill(at(i), i < 2 ? 1 : NAN);
      optimizer.update_late(step, 1, at(0), at(1));
    }
    parameters.refresh();
    return parameters.hash();
  };
  EXPECT_EQ(weights_after(true), weights_after(false));
}

TEST_P(CudaTraining, AfterALossThatIsNotFiniteNothingChanges) {
  Trained run(cuda(), gpt2(), DType::f32);
  run.step(0);
  const std::uint64_t before = run.hash();
  run.ask(1, NAN);
  EXPECT_TRUE(std::isnan(run.ask(2)->loss));  // asked for before the host knew of the first
  const auto last = run.finish().value();
  EXPECT_TRUE(std::isfinite(last.loss));
  EXPECT_EQ(run.hash(), before);
  run.restart();
  Trained fresh(cuda(), gpt2(), DType::f32);
  EXPECT_EQ(run.step(0), fresh.step(0));
  EXPECT_EQ(run.hash(), fresh.hash());
}

// Kernels share scratch memory that grows when one needs more; what was recorded before has the old address.
TEST_P(CudaTraining, ScratchMemoryThatGrowsLeavesRecordedWorkAlone) {
  Trained grown(cuda(), gpt2(), DType::bf16), other(cuda(), gpt2(), DType::bf16);
  for (int step = 0; step < 3; ++step) EXPECT_EQ(grown.step(step), other.step(step));
  constexpr std::int64_t kRows = 500000;
  Backend& b = grown.backend();
  const std::size_t before = b.allocated_bytes();
  {
    const auto memory = b.allocate(2 * kRows * sizeof(float) + 64, "many rows");
    const Tensor rows = memory->view(DType::i32, {kRows});
    const Tensor gradients = memory->view(DType::f32, {kRows, 1}, rows.bytes());
    const Tensor table = memory->view(DType::f32, {8, 1}, 2 * rows.bytes());
    b.fill(rows, 3);
    b.fill(gradients, 1);
    b.fill(table, 0);
    b.embedding_backward(rows, gradients, kRows, table, {});
    std::vector<float> sums(8);
    b.copy_to_host(sums.data(), table);
    EXPECT_EQ(sums[3], static_cast<float>(kRows));
  }
  ASSERT_GT(b.allocated_bytes(), before) << "scratch memory did not grow";
  for (int step = 3; step < 5; ++step) EXPECT_EQ(grown.step(step), other.step(step));
  EXPECT_EQ(grown.hash(), other.hash());
}

TEST_P(CudaTraining, PlannedMemoryIsWhatIsAllocated) {
  for (const DType compute : {DType::f32, DType::bf16}) {
    const auto backend = cuda();
    const std::size_t before = backend->allocated_bytes();
    Tape tape;
    const Value losses = transformer(tape, modern(), kBatch, kContext);
    ProgramOptions options;
    options.compute = compute;
    const MemoryPlan plan = plan_memory(tape, *backend, options);
    Parameters parameters(tape, *backend, compute, true);
    Program program(tape, losses, parameters, options);
    // What the backend keeps for itself it takes with the first product.
    EXPECT_EQ(backend->allocated_bytes() - before, plan.total() - backend->working_bytes());
  }
}

TEST_P(CudaTraining, TheFirstValueThatWentBadIsNamed) {
  Trained run(cuda(), gpt2(), DType::bf16);
  run.step(0);
  run.step(1);
  EXPECT_EQ(run.program().first_nonfinite(), "");
}

INSTANTIATE_TEST_SUITE_P(On, CudaTraining, testing::Values(Device{"emulated", true}, Device{"gpu", false}),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace spectrain
