#include <gtest/gtest.h>

#include <cmath>

#include "tests/model/model_run.h"
#include "tests/reference/reference_backend.h"

// Gradients of labels that a model draws from its own predictions.

namespace spectrain::test {
namespace {

constexpr std::int64_t kContext = 16;

TransformerConfig small() {
  TransformerConfig c;
  c.vocab = 61;
  c.padded_vocab = 64;
  c.context = kContext;
  c.layers = 1;
  c.width = 16;
  c.heads = 2;
  c.softcap = {Softcap::Kind::tanh, 5, 1, 0};
  return c;
}

std::vector<double> all_gradients(ModelRun& run, Backend& backend) {
  std::vector<double> all;
  for (const ParameterView& p : run.parameters().views())
    for (const double g : values_of(backend, p.gradient)) all.push_back(g);
  return all;
}

std::vector<double> sampled(ModelRun& run, Backend& backend, const SampledLabels& labels,
                            std::int64_t sequences = 2, std::int64_t first_sequence = 0) {
  const std::vector<std::int32_t> every = some_tokens(2 * kContext, 61, 3);
  const auto begin = every.begin() + first_sequence * kContext;
  const std::vector<std::int32_t> tokens(begin, begin + sequences * kContext);
  run.set_batch(tokens, tokens);
  run.program().forward_backward_sampled(1.0 / (2 * kContext), false, labels);
  return all_gradients(run, backend);
}

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

// The mean gradient of labels drawn from the model is zero, whatever the model. Of n draws the mean is as
// long as one draw divided by sqrt(n).
TEST(SampledLabels, AverageToNothing) {
  ReferenceBackend backend;
  ModelRun run(backend, small(), 2, kContext, {.compute = DType::f64});
  run.set_golden_weights();
  constexpr int kDraws = 400;
  std::vector<double> mean;
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const std::vector<double> g = sampled(run, backend, {{11, static_cast<std::uint64_t>(i)}, 0});
    mean.resize(g.size());
    for (std::size_t k = 0; k < g.size(); ++k) mean[k] += g[k] / kDraws;
    squares += norm(g) * norm(g) / kDraws;
  }
  EXPECT_GT(squares, 0);
  EXPECT_LT(norm(mean), 1.5 * std::sqrt(squares / kDraws));
  // Labels of the text, in contrast, all pull the same way.
  run.set_batch(some_tokens(2 * kContext, 61, 3), some_tokens(2 * kContext, 61, 4));
  run.program().forward_backward(1.0 / (2 * kContext), false);
  EXPECT_GT(norm(all_gradients(run, backend)), 5 * norm(mean));
}

// A label belongs to its place in the batch, not to the chunk of logits or the pass that draws it.
TEST(SampledLabels, DependOnTheirPlaceAlone) {
  ReferenceBackend backend;
  ModelRun whole(backend, small(), 2, kContext, {.compute = DType::f64});
  ModelRun chunks(backend, small(), 2, kContext, {.compute = DType::f64, .logits_budget = 5 * 64 * 8});
  ModelRun one(backend, small(), 1, kContext, {.compute = DType::f64});
  for (ModelRun* run : {&whole, &chunks, &one}) run->set_golden_weights();
  const SampledLabels labels{{11, 5}, 1000};
  const std::vector<double> expected = sampled(whole, backend, labels);
  EXPECT_LT(relative_error(sampled(chunks, backend, labels), expected), 1e-12);
  std::vector<double> sum = sampled(one, backend, labels, 1, 0);
  const std::vector<double> second = sampled(one, backend, {labels.key, 1000 + kContext}, 1, 1);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += second[i];
  EXPECT_LT(relative_error(sum, expected), 1e-12);
  EXPECT_GT(relative_error(sampled(whole, backend, {{11, 6}, 1000}), expected), 0.1);
}

}  // namespace
}  // namespace spectrain::test
