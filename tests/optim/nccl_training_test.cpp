#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "kernels/collectives.h"
#include "kernels/sockets.h"
#include "model/program.h"
#include "model/transformer.h"
#include "optim/distributed_optimizer.h"
#include "tests/cuda_emulator/emulator.h"

// Whole training steps of several ranks with a GPU each, emulated, against one rank. Each rank is a process,
// this test binary again: an emulated GPU is the process's own.

namespace spectrain {
namespace {

constexpr std::int64_t kContext = 24, kSequences = 6;
constexpr int kSteps = 4;

TransformerConfig model() {
  TransformerConfig c;
  c.vocab = 100;
  c.context = kContext;
  c.layers = 2;
  c.width = 64;
  c.heads = 2;
  return c.resolved();
}

OptimizerConfig rules() {
  OptimizerConfig o;
  MuonOptions muon;
  muon.lr = 0.01;
  muon.newton_schulz.precision = DType::f32;
  AdamWOptions adamw;
  adamw.lr = 0.003;
  o.groups = {{{Role::hidden}, muon}, {{Role::embedding, Role::head, Role::gain, Role::bias}, adamw}};
  return o;
}

std::vector<std::int32_t> tokens(int step, std::int64_t sequence, bool next) {
  std::vector<std::int32_t> list;
  for (std::int64_t i = 0; i < kContext; ++i) {
    const auto at =
        static_cast<std::uint64_t>((step * kSequences + sequence) * (kContext + 1) + i + (next ? 1 : 0));
    list.push_back(static_cast<std::int32_t>((at * 7 + random_u32({5, 5}, at) % 3) % 100));
  }
  return list;
}

// The mean loss of each step, on every rank that of all.
std::vector<double> train(Backend& backend, Collectives& collectives, Sharding sharding) {
  Tape tape;
  const Value losses = transformer(tape, model(), 1, kContext);
  const bool shared = collectives.ranks() > 1 && sharding == Sharding::owners;
  Parameters parameters(tape, backend, DType::f32, true,
                        shared ? Parameters::Values::read : Parameters::Values::all);
  ProgramOptions options;
  options.compute = DType::f32;
  Program program(tape, losses, parameters, options);
  // Small buckets: many on their way at once.
  DistributedOptimizer optimizer(backend, parameters, rules(), collectives, {sharding, 64 << 10});
  program.set_hooks(optimizer.hooks());
  const auto memory = backend.allocate(sizeof(double), "the loss");
  const Tensor total = memory->view(DType::f64, {1});
  optimizer.initialize(3);
  const std::int64_t micros = kSequences / collectives.ranks();
  std::vector<double> means;
  const auto keep = [&means](const std::optional<DistributedOptimizer::StepResult>& result) {
    if (!result) return;
    if (!result->report.finite || result->step != static_cast<std::int64_t>(means.size()))
      throw Error("not finite, or out of order");
    means.push_back(result->loss / (kSequences * kContext));
  };
  for (int step = 0; step < kSteps; ++step) {
    backend.fill(total, 0);
    for (std::int64_t micro = 0; micro < micros; ++micro) {
      const std::int64_t sequence = collectives.rank() * micros + micro;
      program.set_input("tokens", tokens(step, sequence, false));
      program.set_input("targets", tokens(step, sequence, true));
      if (micro + 1 == micros) optimizer.release_gradients();
      program.forward_backward(1.0 / (kSequences * kContext), micro > 0);
      program.add_result_to(total);
    }
    keep(optimizer.step(step, 1, total, {}));
  }
  keep(optimizer.finish_step());
  optimizer.compare_weights(kSteps);
  return means;
}

// What a rank is told: "rank ranks port owners|replicas file".
constexpr const char* kVariable = "SPECTRAIN_TEST_RANK";

// One rank; started by the test below.
TEST(NcclTraining, DISABLED_Rank) {
  const char* const told = std::getenv(kVariable);
  if (told == nullptr) GTEST_SKIP() << "started by another test";
  char mode[16], file[512];
  RankPlace place;
  place.timeout = 60;
  ASSERT_EQ(std::sscanf(told, "%d %d %d %15s %511s", &place.rank, &place.ranks, &place.port, mode, file), 5);
  const auto backend = make_emulated_cuda_backend();
  const auto collectives = make_emulated_nccl_collectives(*backend, place);
  const bool owners = std::string(mode) == "owners";
  const auto means = train(*backend, *collectives, owners ? Sharding::owners : Sharding::replicas);
  // Of three micro-batches the second needs nobody else, with replicas the first neither: such passes are
  // recorded in the second step, and so is the update.
  EXPECT_EQ(emulator::counts().graph_launches, (kSteps - 1) * (1 + (place.ranks > 2 ? 0 : owners ? 1 : 2)));
  std::ofstream out(file);
  out.precision(17);
  for (const double mean : means) out << mean << "\n";
}

std::vector<double> train_on_ranks(int ranks, const std::string& mode) {
  int port = 0;
  { port = near_end(listen_at("127.0.0.1", 0)).port; }
  std::vector<pid_t> processes;
  std::vector<std::string> files;
  for (int r = 0; r < ranks; ++r) {
    files.push_back(testing::TempDir() + "spectrain-nccl-" + std::to_string(getpid()) + "-" +
                    std::to_string(r));
    const std::string told = std::to_string(r) + " " + std::to_string(ranks) + " " + std::to_string(port) +
                             " " + mode + " " + files.back();
    setenv(kVariable, told.c_str(), 1);
    const pid_t child = fork();
    if (child == 0) {
      std::freopen("/dev/null", "w", stdout);
      execl("/proc/self/exe", "test_optim", "--gtest_filter=NcclTraining.DISABLED_Rank",
            "--gtest_also_run_disabled_tests", static_cast<char*>(nullptr));
      _exit(127);
    }
    processes.push_back(child);
  }
  unsetenv(kVariable);
  std::vector<double> means;
  for (int r = 0; r < ranks; ++r) {
    int status = 0;
    waitpid(processes[static_cast<std::size_t>(r)], &status, 0);
    EXPECT_EQ(status, 0) << "rank " << r;
    std::vector<double> own;
    std::ifstream in(files[static_cast<std::size_t>(r)]);
    for (double x = 0; in >> x;) own.push_back(x);
    unlink(files[static_cast<std::size_t>(r)].c_str());
    if (r == 0) means = own;
    EXPECT_EQ(own, means) << "rank " << r;
  }
  return means;
}

TEST(NcclTraining, RanksFollowOneRank) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "one thread with many stacks is not understood by this sanitizer";
#endif
  const auto backend = make_emulated_cuda_backend();
  const auto alone = make_single_collectives();
  const std::vector<double> wanted = train(*backend, *alone, Sharding::owners);
  ASSERT_EQ(wanted.size(), static_cast<std::size_t>(kSteps));
  EXPECT_LT(wanted.back(), wanted.front());
  for (const auto& [ranks, mode] :
       {std::pair(2, "owners"), std::pair(2, "replicas"), std::pair(3, "owners")}) {
    const std::vector<double> got = train_on_ranks(ranks, mode);
    ASSERT_EQ(got.size(), wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i)
      // Sums in another order; Muon makes as much of a small gradient's noise as of a large gradient.
      EXPECT_NEAR(got[i], wanted[i], i == 0 ? 2e-6 : 1e-4) << ranks << " ranks, " << mode << ", step " << i;
  }
}

}  // namespace
}  // namespace spectrain
