#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "model/transformer.h"
#include "optim/distributed_optimizer.h"
#include "tests/optim/thread_collectives.h"

// A small transformer trained by 1, 2, 3, 4 and 8 ranks: the same weights, whoever updates what.

namespace spectrain {
namespace {

constexpr std::int64_t kContext = 16;

struct Setting {
  int ranks = 1;
  Sharding sharding = Sharding::owners;
  DType compute = DType::f32;
  int micros = 1;  // per rank
  std::int64_t bucket_bytes = 4000;
  double clip = 0;
  bool tied = true;
  int steps = 4;
  bool adamw_only = false;
  int separate = 0;  // gradients made one by one and then added in order; ranks is 1
  RuleOptions hidden = MuonOptions{};
  FinishOptions finish = {};         // of the hidden matrices
  LookAheadOptions look_ahead = {};  // the same
  AverageOptions average = {};
  bool stochastic = false;  // rounding of bf16 weights
  bool show = false;        // the outcome's weights are the average
};

TransformerConfig model(bool tied) {
  TransformerConfig c;
  c.vocab = 61;
  c.padded_vocab = 64;
  c.context = kContext;
  c.layers = 3;
  c.width = 24;
  c.heads = 3;
  c.tied = tied;
  return c.resolved();
}

OptimizerConfig rules(const Setting& s) {
  OptimizerConfig c;
  if (s.adamw_only) {
    c.groups.push_back(
        {{Role::hidden, Role::embedding, Role::head, Role::gain, Role::bias, Role::scalar}, AdamWOptions{}});
  } else {
    c.groups.push_back({{Role::hidden}, s.hidden, s.finish, s.look_ahead});
    AdamWOptions adamw;
    adamw.weight_decay = 0.1;
    c.groups.push_back({{Role::embedding, Role::head, Role::gain, Role::bias, Role::scalar}, adamw});
  }
  c.clip = s.clip;
  c.steps = s.steps;
  c.average = s.average;
  return c;
}

// Tokens of micro-batch `micro` of a step, whoever has it.
std::vector<std::int32_t> tokens(std::int64_t step, std::int64_t micro, bool targets) {
  std::mt19937 random(static_cast<unsigned>(step * 1000 + micro));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(kContext) + 1);
  for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % 61);
  return targets ? std::vector<std::int32_t>(ids.begin() + 1, ids.end())
                 : std::vector<std::int32_t>(ids.begin(), ids.end() - 1);
}

struct Outcome {
  std::vector<std::vector<float>> weights;  // by parameter, put together from what the ranks own
  std::vector<double> losses, norms;
  std::int64_t matrices = 0;  // orthogonalised in all steps by all ranks
  std::int64_t state_numbers = 0, master_numbers = 0;
  std::uint64_t sent = 0;  // by rank 0, gradients and weights of all steps
  std::uint64_t planned = 0;
};

// ((g0 + g1) + g2) + ..., put back into the gradients after the last.
struct GradientSum {
  std::vector<std::vector<float>> sums;
  void add(Parameters& parameters, bool first, bool last) {
    sums.resize(parameters.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
      const auto g = parameters.view(i).gradient.span<float>();
      if (first) sums[i].assign(g.size(), 0);
      for (std::size_t k = 0; k < g.size(); ++k) sums[i][k] = first ? g[k] : sums[i][k] + g[k];
      if (last) std::copy(sums[i].begin(), sums[i].end(), g.begin());
    }
  }
};

Outcome train(const Setting& s) {
  Outcome outcome;
  std::mutex mutex;
  ThreadRanks all(s.ranks);
  all.run([&](Collectives& c) {
    const auto backend = make_cpu_backend({1, true});
    const bool shared = s.ranks > 1 && s.sharding == Sharding::owners;
    Tape tape;
    const Value losses = transformer(tape, model(s.tied), 1, kContext);
    Parameters parameters(tape, *backend, s.compute, true,
                          shared ? Parameters::Values::read : Parameters::Values::all);
    if (s.stochastic) parameters.round_stochastically(5);
    ProgramOptions options;
    options.compute = s.compute;
    Program program(tape, losses, parameters, options);
    DistributedOptimizer optimizer(*backend, parameters, rules(s), c, {s.sharding, s.bucket_bytes});
    program.set_hooks(optimizer.hooks());
    optimizer.initialize(3);
    optimizer.compare_weights(0);
    const double scale = 1.0 / static_cast<double>(kContext * s.ranks * s.micros);
    const auto loss_memory = backend->allocate(sizeof(double), "the loss");
    const Tensor loss_sum = loss_memory->view(DType::f64, {1});
    std::int64_t matrices = 0;
    GradientSum sum;
    const std::uint64_t before = c.traffic().bytes_sent;
    for (int step = 0; step < s.steps; ++step) {
      if (optimizer.wants_sampled_gradient(step)) {
        for (int micro = 0; micro < s.micros; ++micro) {
          const std::int64_t place = c.rank() * s.micros + micro;
          program.set_input("tokens", tokens(step, place, false));
          program.set_input("targets", tokens(step, place, true));
          if (micro + 1 == s.micros) optimizer.release_gradients();
          program.forward_backward_sampled(scale, micro > 0 && s.separate == 0,
                                           {{7, static_cast<std::uint64_t>(step)}, place * kContext});
          if (s.separate) sum.add(parameters, micro == 0, micro + 1 == s.micros);
        }
        optimizer.observe_sampled(step, 1, 1 / scale);
      }
      double loss = 0;
      backend->fill(loss_sum, 0);
      for (int micro = 0; micro < s.micros; ++micro) {
        program.set_input("tokens", tokens(step, c.rank() * s.micros + micro, false));
        program.set_input("targets", tokens(step, c.rank() * s.micros + micro, true));
        if (micro + 1 == s.micros) optimizer.release_gradients();
        program.forward_backward(scale, micro > 0 && s.separate == 0);
        if (s.separate) sum.add(parameters, micro == 0, micro + 1 == s.micros);
        program.add_result_to(loss_sum);
        for (const double l : program.host_result()) loss += l;
      }
      const auto result = optimizer.step(step, 1, loss_sum, std::vector<double>{1}).value();
      EXPECT_EQ(result.step, step);
      EXPECT_NEAR(result.own_loss, loss, 1e-12 * loss);
      EXPECT_EQ(result.sums[0], s.ranks);
      EXPECT_FALSE(optimizer.finish_step()) << "a host knows at once";
      matrices += result.report.matrices;
      if (c.rank() == 0) {
        outcome.losses.push_back(result.loss * scale);
        outcome.norms.push_back(result.report.gradient_norm);
      }
    }
    if (optimizer.has_average(s.steps)) {  // to and fro: what is seen then is the same everywhere too
      optimizer.show_average();
      optimizer.compare_weights(s.steps);
      if (s.show) optimizer.finish_weights();
      if (!s.show) optimizer.restore_weights();
    }
    optimizer.finish_weights();
    const std::uint64_t sent = c.traffic().bytes_sent - before;
    optimizer.compare_weights(s.steps);
    const std::lock_guard lock(mutex);
    outcome.matrices += matrices;
    if (c.rank() == 0) {
      outcome.sent = sent;
      if (const ShardPlan* plan = optimizer.plan())
        outcome.planned = plan->gradient_bytes(0, DType::f32) + plan->weight_bytes(0);
    }
    outcome.weights.resize(parameters.size());
    for (const StateTensor& t : optimizer.owned_values()) {
      const auto i = static_cast<std::size_t>(parameters.find(t.name));
      outcome.weights[i].resize(static_cast<std::size_t>(parameters.info(i).shape.numel()));
      std::memcpy(outcome.weights[i].data() + t.first, t.tensor.data, t.tensor.bytes());
      outcome.master_numbers += t.tensor.numel();
    }
    for (const StateTensor& t : optimizer.owned_state()) outcome.state_numbers += t.tensor.numel();
  });
  return outcome;
}

// What one process makes of the same micro-batches, in the same order.
Outcome alone(Setting s) {
  s.micros *= s.ranks;
  s.ranks = 1;
  return train(s);
}

// The same, but the gradients of the micro-batches are added as the ranks add theirs.
Outcome alone_in_order(Setting s) {
  s.separate = 1;
  return alone(s);
}

void expect_same_bits(const Outcome& a, const Outcome& b) {
  ASSERT_EQ(a.weights.size(), b.weights.size());
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    EXPECT_EQ(a.weights[i], b.weights[i]) << "parameter " << i;
}

// Sums of a few numbers in another order, seen through rules that divide a gradient by its own size: Muon's
// iteration amplifies small singular values about 500-fold, and AdamW moves a weight whose gradient is
// nothing but rounding (a bias of k, which the softmax cancels) by as much as any other, up to its learning
// rate a step.
void expect_close(const Outcome& a, const Outcome& b, double tolerance) {
  for (std::size_t i = 0; i < a.weights.size(); ++i) {
    double difference = 0, size = 0;
    for (std::size_t k = 0; k < a.weights[i].size(); ++k) {
      difference += std::pow(double(a.weights[i][k]) - double(b.weights[i][k]), 2);
      size += std::pow(double(a.weights[i][k]), 2);
    }
    const double moved = 4 * AdamWOptions{}.lr * std::sqrt(double(a.weights[i].size()));
    EXPECT_LE(std::sqrt(difference), tolerance * (std::sqrt(size) + moved)) << "parameter " << i;
  }
}

class Ranks : public testing::TestWithParam<int> {};

TEST_P(Ranks, MakeTheBitsOfOneProcessThatAddsInTheirOrder) {
  for (const DType compute : {DType::f32, DType::bf16})
    for (const bool tied : {true, false}) {
      Setting s{.ranks = GetParam(), .compute = compute, .tied = tied};
      const Outcome one = alone_in_order(s);
      expect_same_bits(train(s), one);
      s.sharding = Sharding::replicas;
      expect_same_bits(train(s), one);
    }
}

// Rounded by their owners, or by each rank for itself where master values travel (the tied head).
TEST_P(Ranks, RoundStochasticallyAsOneProcessDoes) {
  for (const bool tied : {true, false}) {
    Setting s{.ranks = GetParam(), .compute = DType::bf16, .tied = tied, .stochastic = true};
    const Outcome one = alone_in_order(s);
    expect_same_bits(train(s), one);
    s.sharding = Sharding::replicas;
    expect_same_bits(train(s), one);
    s.stochastic = false;
    EXPECT_NE(train(s).losses, one.losses) << "nothing was rounded";
  }
}

// Whatever comes after the rule: constraints that need whole tensors, means of the weights' path.
TEST(DistributedRules, StagesMakeTheBitsOfOneProcess) {
  FinishOptions ball, brake, cautious;
  ball.constraint = Constraint::hyperball;
  brake.floor = 0.3, brake.brake = 0.5, brake.measured = Measured::row;
  cautious.cautious = true, cautious.decay_schedule = DecaySchedule::cosine;
  AdamWOptions decayed;
  decayed.weight_decay = 0.1;
  const Setting settings[] = {
      {.ranks = 3, .steps = 4, .hidden = AdamWOptions{}, .finish = ball},
      {.ranks = 3, .steps = 4, .finish = ball},
      {.ranks = 3, .steps = 4, .finish = brake},
      {.ranks = 3, .steps = 4, .hidden = decayed, .finish = cautious},
      {.ranks = 3, .steps = 4, .look_ahead = {0.6, 0.9, 1, 3}},
      {.ranks = 3, .steps = 4, .average = {2, 0.5, 0.7}},
      {.ranks = 3, .steps = 4, .average = {2, 0.5, 0.7}, .show = true},
  };
  for (Setting s : settings) {
    const Outcome one = alone_in_order(s);
    expect_same_bits(train(s), one);
    s.sharding = Sharding::replicas;
    expect_same_bits(train(s), one);
  }
  EXPECT_NE(train(settings[5]).weights, train(settings[6]).weights);
}

// Every rule sees whole matrices, or is the same however it is cut.
TEST(DistributedRules, MakeTheBitsOfOneProcess) {
  for (const RuleOptions& rule : all_rules()) {
    SCOPED_TRACE(rule.info().name);
    Setting s{.ranks = 2, .steps = 6, .hidden = rule};
    const Outcome shared = train(s), one = alone_in_order(s);
    expect_same_bits(shared, one);
    EXPECT_EQ(shared.state_numbers, one.state_numbers);
  }
}

TEST_P(Ranks, SharedEqualsReplicatedWithAccumulationAndClipping) {
  for (const bool adamw_only : {false, true}) {
    Setting s{.ranks = GetParam(), .micros = 3, .adamw_only = adamw_only};
    const Outcome owners = train(s);
    Setting replicas = s;
    replicas.sharding = Sharding::replicas;
    expect_same_bits(owners, train(replicas));
    const Outcome one = alone(s);
    expect_close(owners, one, 1e-4);
    for (std::size_t k = 0; k < one.losses.size(); ++k) EXPECT_NEAR(owners.losses[k], one.losses[k], 1e-5);
    // The norm is summed rank by rank: the last bit of a double, then of the clipped gradient.
    s.clip = replicas.clip = 0.2;
    EXPECT_GT(one.norms[0], s.clip) << "nothing is clipped";
    expect_close(train(s), alone(s), 1e-4);
    expect_close(train(s), train(replicas), 1e-4);
  }
}

TEST_P(Ranks, AnyBucketSizeMakesTheSameBits) {
  Setting s{.ranks = GetParam()};
  s.bucket_bytes = 1;
  const Outcome small = train(s);
  s.bucket_bytes = 40 << 20;
  expect_same_bits(small, train(s));
}

TEST_P(Ranks, EveryMatrixIsOrthogonalisedOnceAndStateExistsOnce) {
  const Setting s{.ranks = GetParam()};
  const Outcome shared = train(s), one = alone(s);
  EXPECT_EQ(one.matrices, 3 * 6 * s.steps) << "3 layers of q, k, v, output, up, down";
  EXPECT_EQ(shared.matrices, one.matrices);
  EXPECT_EQ(shared.state_numbers, one.state_numbers);
  // One process also keeps the padding rows of the embedding.
  EXPECT_EQ(shared.master_numbers, one.master_numbers - (s.ranks > 1 ? 3 * 24 : 0));
}

TEST_P(Ranks, SendWhatThePlanSays) {
  Setting s{.ranks = GetParam(), .compute = DType::bf16, .steps = 3};
  for (const std::int64_t bucket_bytes : {std::int64_t{4000}, std::int64_t{1} << 20}) {
    s.bucket_bytes = bucket_bytes;
    const Outcome shared = train(s);
    EXPECT_EQ(shared.sent, 3 * shared.planned);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, Ranks, testing::Values(1, 2, 3, 4, 8, 20));

TEST(Distributed, ANonFiniteGradientOnOneRankSkipsTheStepOnAll) {
  ThreadRanks all(3);
  all.run([&](Collectives& c) {
    const auto backend = make_cpu_backend({1, true});
    Tape tape;
    transformer(tape, model(true), 1, kContext);
    Parameters parameters(tape, *backend, DType::f32, true, Parameters::Values::read);
    DistributedOptimizer optimizer(*backend, parameters, rules({}), c, {Sharding::owners, 4000});
    optimizer.initialize(3);
    std::vector<std::uint64_t> before;
    for (std::size_t i = 0; i < parameters.size(); ++i) before.push_back(parameters.hash(i));
    if (c.rank() == 1) backend->fill(parameters.view(2).gradient, std::numeric_limits<double>::infinity());
    optimizer.release_gradients();
    double loss = 1;
    const auto result = optimizer.step(0, 1, Tensor(&loss, DType::f64, {1}), {}).value();
    EXPECT_FALSE(result.report.finite) << "rank " << c.rank();
    EXPECT_EQ(result.loss, 3);
    optimizer.finish_weights();
    for (std::size_t i = 0; i < parameters.size(); ++i) EXPECT_EQ(parameters.hash(i), before[i]);
  });
}

TEST(Distributed, ALossThatIsNoNumberOnOneRankSkipsTheStepOnAll) {
  ThreadRanks all(3);
  all.run([&](Collectives& c) {
    const auto backend = make_cpu_backend({1, true});
    Tape tape;
    transformer(tape, model(true), 1, kContext);
    Parameters parameters(tape, *backend, DType::f32, true, Parameters::Values::read);
    DistributedOptimizer optimizer(*backend, parameters, rules({}), c, {Sharding::owners, 4000});
    optimizer.initialize(3);
    const std::uint64_t before = parameters.hash();
    double loss = c.rank() == 1 ? std::numeric_limits<double>::quiet_NaN() : 1;
    optimizer.release_gradients();
    const auto result = optimizer.step(0, 1, Tensor(&loss, DType::f64, {1}), {}).value();
    EXPECT_FALSE(result.report.finite) << "rank " << c.rank();
    EXPECT_EQ(std::isfinite(result.own_loss), c.rank() != 1);
    EXPECT_FALSE(std::isfinite(result.loss));
    optimizer.finish_weights();
    EXPECT_EQ(parameters.hash(), before);
  });
}

TEST(Distributed, AWeightThatDiffersIsNamed) {
  for (const Sharding sharding : {Sharding::owners, Sharding::replicas}) {
    ThreadRanks all(3);
    all.run([&](Collectives& c) {
      const auto backend = make_cpu_backend({1, true});
      Tape tape;
      transformer(tape, model(true), 1, kContext);
      Parameters parameters(
          tape, *backend, DType::f32, true,
          sharding == Sharding::owners ? Parameters::Values::read : Parameters::Values::all);
      DistributedOptimizer optimizer(*backend, parameters, rules({}), c, {sharding, 4000});
      optimizer.initialize(3);
      EXPECT_NO_THROW(optimizer.compare_weights(7));
      const auto wte = static_cast<std::size_t>(parameters.find(parameters.info(0).name));
      if (c.rank() == 2) {  // one bit
        auto* bits = reinterpret_cast<std::uint32_t*>(parameters.view(wte).value.data);
        bits[5] ^= 1;
      }
      try {
        optimizer.compare_weights(7);
        ADD_FAILURE() << "rank " << c.rank() << " noticed nothing";
      } catch (const Error& e) {
        EXPECT_NE(std::string(e.what()).find("weights " + parameters.info(0).name + " of rank 2"),
                  std::string::npos)
            << e.what();
      }
    });
  }
}

}  // namespace
}  // namespace spectrain
