#include <gtest/gtest.h>

#include "model/program.h"
#include "model/transformer.h"
#include "tests/model/allocation_count.h"

// Weights rounded stochastically for the products that read them.

namespace spectrain {
namespace {

struct Rounded {
  explicit Rounded(std::uint64_t seed, bool stochastic = true) : backend(make_cpu_backend({2, true})) {
    TransformerConfig c;
    c.vocab = c.padded_vocab = 64;
    c.context = 16;
    c.layers = 1;
    c.width = 32;
    c.heads = 2;
    c.tied = false;
    losses = transformer(tape, c.resolved(), 1, 16);
    options.compute = DType::bf16;
    options.stochastic_rounding = stochastic;
    parameters = std::make_unique<Parameters>(tape, *backend, DType::bf16, true, Parameters::Values::read);
    if (stochastic) parameters->round_stochastically(seed);
    at(0);
  }
  // The same weights as if they had seen so many steps: what programs read of each matrix.
  std::vector<std::uint64_t> at(std::int64_t steps) {
    parameters->set_steps(steps);
    parameters->initialize(1);
    std::vector<std::uint64_t> hashes;
    for (std::size_t i = 0; i < parameters->size(); ++i)
      if (!parameters->has_value(i)) hashes.push_back(parameters->hash(i));
    return hashes;
  }

  std::unique_ptr<Backend> backend;
  Tape tape;
  Value losses;
  ProgramOptions options;
  std::unique_ptr<Parameters> parameters;
};

TEST(RoundedWeights, DependOnSeedStepAndParameter) {
  Rounded a(1), b(2);
  const auto first = a.at(0), second = a.at(1), other = b.at(0);
  ASSERT_GE(first.size(), 5u);
  for (std::size_t i = 0; i < first.size(); ++i) {
    EXPECT_NE(first[i], second[i]) << "the same bits at every step";
    EXPECT_NE(first[i], other[i]) << "the same bits for every seed";
  }
  EXPECT_EQ(a.at(0), first);
  // Two parameters with the same numbers are rounded apart.
  const auto rounded = [&](std::size_t i) {
    std::vector<float> from(512, 1.001f);
    std::vector<bf16> to(from.size());
    a.parameters->round(i, 0, Tensor(from.data(), DType::f32, {512}), Tensor(to.data(), DType::bf16, {512}));
    std::vector<std::uint16_t> bits;
    for (const bf16 x : to) bits.push_back(x.bits);
    return bits;
  };
  EXPECT_NE(rounded(0), rounded(1));
  EXPECT_EQ(rounded(1), rounded(1));
}

TEST(RoundedWeights, TakeTheRoomThatIsPlannedAndNothingInAStep) {
  Rounded plain(1, false), rounded(1);
  const auto planned = [](const Rounded& r) { return plan_memory(r.tape, *r.backend, r.options).total(); };
  const std::size_t room = rounded.backend->allocated_bytes() - plain.backend->allocated_bytes();
  EXPECT_EQ(planned(rounded) - planned(plain), room);
  EXPECT_EQ(room, 128u * 32 * 2);  // the largest matrix, the MLP's
  std::vector<float> values(128 * 32, 0.3f);
  const auto i = static_cast<std::size_t>(rounded.parameters->find("h.0.mlp.up.weight"));
  const Tensor up(values.data(), DType::f32, {128, 32});
  rounded.parameters->set(i, up);
  const std::int64_t before = allocation_count();
  rounded.parameters->set_steps(2);
  rounded.parameters->set(i, up);
  EXPECT_EQ(allocation_count() - before, 0);
}

TEST(RoundedWeights, AreOfBf16) {
  Tape tape;
  const Value tokens = tape.input("tokens", Shape{4}), targets = tape.input("targets", Shape{4});
  const Value table = tape.parameter("wte", Shape{8, 4}, Role::embedding, Initializer::normal(1));
  tape.cross_entropy(tape.embedding(tokens, table, {}, 4), table, {}, targets, 8, {});
  const auto backend = make_cpu_backend();
  Parameters parameters(tape, *backend, DType::f32, true);
  EXPECT_THROW(parameters.round_stochastically(1), std::logic_error);
}

}  // namespace
}  // namespace spectrain
