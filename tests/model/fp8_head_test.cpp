#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "kernels/fp8.h"
#include "tests/model/model_run.h"
#include "tests/reference/reference_backend.h"

namespace spectrain::test {
namespace {

constexpr std::int64_t kContext = 8, kRows = 2 * kContext, kVocab = 23, kWidth = 16;

TransformerConfig small() {
  TransformerConfig c;
  c.vocab = kVocab;
  c.padded_vocab = kVocab;
  c.context = kContext;
  c.layers = 1;
  c.width = kWidth;
  c.heads = 2;
  c.tied = false;
  c.head_fp8 = {4, 16, 1024};
  return c;
}

double rounded(Fp8 format, double scale, double x) {
  return fp8_rounded(limits_of(format), static_cast<float>(scale * x)) / scale;
}

std::vector<double> hidden_states(Backend& backend, const TransformerConfig& c, Parameters& parameters,
                                  const std::vector<std::int32_t>& tokens) {
  Tape tape;
  const Value hidden = transformer_hidden(tape, c.resolved(), 2, kContext);
  Program program(tape, hidden, parameters, {.compute = DType::f64, .training = false});
  program.set_input("tokens", tokens);
  program.forward();
  return values_of(backend, program.result());
}

// Losses, and the gradients of the head and of what comes before it, from rounded numbers in plain loops.
TEST(Fp8Head, MultipliesRoundedNumbers) {
  const auto backend = make_reference_backend();
  const TransformerConfig c = small();
  const std::vector<std::int32_t> tokens = some_tokens(kRows, kVocab, 1),
                                  targets = some_tokens(kRows, kVocab, 2);
  ModelRun model(*backend, c, 2, kContext, {.compute = DType::f64, .logits_budget = 5 * kVocab * 8});
  model.set_golden_weights();
  model.set_batch(tokens, targets);
  const Gradients g = model.gradients();
  const std::vector<double> x = hidden_states(*backend, c, model.parameters(), tokens);
  const ParameterView head =
      model.parameters().view(static_cast<std::size_t>(model.parameters().find("head")));
  const std::vector<double> w = values_of(*backend, head.value);

  std::vector<double> x8(x.size()), w8(w.size()), dw(w.size(), 0);
  for (std::size_t i = 0; i < x.size(); ++i) x8[i] = rounded(Fp8::e4m3, 4, x[i]);
  for (std::size_t i = 0; i < w.size(); ++i) w8[i] = rounded(Fp8::e4m3, 16, w[i]);
  double moved = 0;
  for (std::size_t r = 0; r < kRows; ++r) {
    std::vector<double> z(kVocab, 0);
    double sum = 0;
    for (std::size_t v = 0; v < kVocab; ++v) {
      for (std::size_t k = 0; k < kWidth; ++k) z[v] += x8[r * kWidth + k] * w8[v * kWidth + k];
      sum += std::exp(z[v]);
    }
    const auto target = static_cast<std::size_t>(targets[r]);
    EXPECT_NEAR(g.losses[r], std::log(sum) - z[target], 1e-12);
    for (std::size_t v = 0; v < kVocab; ++v) {
      const double exact = std::exp(z[v]) / sum - (v == target ? 1 : 0);
      const double dz = rounded(Fp8::e5m2, 1024, exact) / kRows;
      moved = std::max(moved, std::abs(dz * kRows - exact));
      for (std::size_t k = 0; k < kWidth; ++k) dw[v * kWidth + k] += dz * x8[r * kWidth + k];
    }
  }
  EXPECT_GT(moved, 1e-3) << "the test's gradients are exact in eight bits";
  EXPECT_LE(relative_error(g.of.at("head"), dw), 1e-12);
}

// Validation reads the head as it is, and a training step without rounding and one with differ.
TEST(Fp8Head, IsForTrainingAlone) {
  const auto cpu = make_cpu_backend();
  TransformerConfig plain = small();
  plain.head_fp8 = {};
  ModelRun rounded_run(*cpu, small(), 2, kContext, {.compute = DType::bf16});
  ModelRun plain_run(*cpu, plain, 2, kContext, {.compute = DType::bf16});
  double loss[2], step[2];
  for (ModelRun* model : {&rounded_run, &plain_run}) {
    const int i = model == &plain_run;
    model->set_golden_weights();
    model->set_batch(some_tokens(kRows, kVocab, 1), some_tokens(kRows, kVocab, 2));
    loss[i] = model->mean_loss();
    step[i] = 0;
    for (const double l : model->gradients().losses) step[i] += l / kRows;
  }
  EXPECT_EQ(loss[0], loss[1]);
  EXPECT_NE(step[0], step[1]);
  EXPECT_NEAR(step[0], step[1], 0.05);
}

}  // namespace
}  // namespace spectrain::test
