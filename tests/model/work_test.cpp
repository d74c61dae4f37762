#include "model/work.h"

#include <gtest/gtest.h>

#include <map>

#include "model/program.h"
#include "model/transformer.h"

// The least work of a training pass, next to counts by hand.

namespace spectrain {
namespace {

constexpr std::int64_t kBatch = 2, kContext = 64, kRows = kBatch * kContext, kWidth = 64, kLayers = 3,
                       kVocab = 1024;

TransformerConfig gpt() {
  TransformerConfig c;
  c.vocab = 1000;
  c.padded_vocab = kVocab;
  c.context = kContext;
  c.layers = kLayers;
  c.width = kWidth;
  c.heads = 4;
  return c.resolved();
}

// first_key: which position of its sequence each query sees first, where the model asks.
std::map<std::string, TimedWork> profile(const TransformerConfig& c, double ticks, const MachineRates& rates,
                                         const std::vector<std::int32_t>& first_key = {}) {
  const auto backend = make_cpu_backend({2, true});
  Tape tape;
  const Value losses = transformer(tape, c, kBatch, kContext);
  ProgramOptions options;
  options.compute = DType::bf16;
  Parameters parameters(tape, *backend, options.compute, true);
  parameters.initialize(1);
  Program program(tape, losses, parameters, options);
  const std::vector<std::int32_t> tokens(kRows, 3);
  program.set_input("tokens", tokens);
  program.set_input("targets", tokens);
  if (!first_key.empty()) program.set_input("first_key", first_key);
  double time = 0;  // every question is answered `ticks` seconds after the one before
  std::map<std::string, TimedWork> by_name;
  for (const TimedWork& w : program.profile([&] { return time += ticks; }, rates)) by_name[w.name] = w;
  return by_name;
}

TEST(Work, ProductsAreCountedAsByHand) {
  const auto work = profile(gpt(), 0.5, {1e12, 1e9});
  const double rows = kRows, c = kWidth;
  const double weights = (3 + 1 + 4) * c * c;  // of qkv, output and the MLP's second, each layer
  EXPECT_EQ(work.at("linear").work.flops, kLayers * 2 * rows * weights);
  EXPECT_EQ(work.at("linear").calls, 3 * kLayers);
  EXPECT_EQ(work.at("linear + activation").work.flops, kLayers * 2 * rows * 4 * c * c);
  const double before = (3 + 1 + 4) * c * c;  // of qkv, output and the MLP's first
  EXPECT_EQ(work.at("linear backward").work.flops, kLayers * 4 * rows * before);
  EXPECT_EQ(work.at("linear + activation backward").work.flops, kLayers * 4 * rows * 4 * c * c);
  EXPECT_EQ(work.at("cross_entropy backward").work.flops, 6 * rows * kVocab * c);  // with the logits
  // Pairs of query and key: 64 * 65 / 2 in each of two sequences; two products of width c, then five.
  EXPECT_EQ(work.at("attention").work.flops, kLayers * 4 * (2 * 2080.0) * c);
  EXPECT_EQ(work.at("attention backward").work.flops, kLayers * 10 * (2 * 2080.0) * c);
  EXPECT_EQ(work.at("norm backward").work.flops, 0);
}

TEST(Work, BytesAreReadAndWrittenOnce) {
  const auto work = profile(gpt(), 0.5, {1e12, 1e9});
  const double rows = kRows, c = kWidth, half = 2, whole = 4;
  // The first norm alone: x, gain and bias, the result, mean and deviation of each row.
  EXPECT_EQ(work.at("norm").calls, 1);
  EXPECT_EQ(work.at("norm").work.bytes, rows * c * half * 2 + 2 * c * whole + 2 * rows * whole);
  // Token ids; a row of each table for each token (128 tokens: less than the 1024 rows of one, and both of
  // the other's 64); the result.
  EXPECT_EQ(work.at("embedding").work.bytes,
            rows * 4 + rows * c * whole + kContext * c * whole + rows * c * half);
  // Gradient, input and result of each of three: qkv, output, the MLP's first; weights and their gradients.
  const double sides = (1 + 3) + (1 + 1) + (1 + 4), inputs = 1 + 1 + 1, matrices = (3 + 1 + 4) * c * c,
               biases = (3 + 1 + 4) * c;
  EXPECT_EQ(work.at("linear backward").work.bytes,
            kLayers * ((sides + inputs) * rows * c * half + matrices * (half + whole) + biases * whole));
  // Of the MLP's second, and the value that the activation came from.
  EXPECT_EQ(work.at("linear + activation backward").work.bytes,
            kLayers * (((4 + 1) + 4 + 4) * rows * c * half + 4 * c * c * (half + whole) + c * whole));
}

TEST(Work, KeysThatAreNotSeenAreNotCounted) {
  TransformerConfig seen = gpt();
  seen.visibility.window = {8};
  std::vector<std::int32_t> first_key;
  for (std::int32_t i = 0; i < kRows; ++i) first_key.push_back(std::max<std::int32_t>(0, i % kContext - 7));
  const auto all = profile(gpt(), 0.5, {1e12, 1e9}), near = profile(seen, 0.5, {1e12, 1e9}, first_key);
  // In each sequence 1 + 2 + ... + 7 pairs, then eight for each of the other 57 queries.
  EXPECT_EQ(near.at("attention").work.flops, kLayers * 4 * (2 * (28 + 57 * 8.0)) * kWidth);
  EXPECT_LT(near.at("attention").work.flops, all.at("attention").work.flops / 3);
}

TEST(Work, TheFloorIsTheSlowerOfTheTwo) {
  const Work w{3e9, 1e6};
  EXPECT_EQ(floor_seconds(w, {1e9, 1e9}), 3);
  EXPECT_EQ(floor_seconds(w, {1e12, 1e6}), 1);
  const auto work = profile(gpt(), 0.25, {1e9, 1e30});
  const TimedWork& head = work.at("cross_entropy backward");
  EXPECT_EQ(head.floor, head.work.flops / 1e9);
  EXPECT_EQ(head.seconds, 0.25);  // one answer later
  EXPECT_EQ(work.at("linear").seconds, 0.25 * static_cast<double>(work.at("linear").calls));
}

}  // namespace
}  // namespace spectrain
