#include <gtest/gtest.h>

#include <cmath>

#include "tests/model/model_run.h"
#include "tests/reference/reference_backend.h"

// Whole models on the CPU against the same model in float64, where vectors and blocks have remainders.

namespace spectrain::test {
namespace {

struct Case {
  std::string name;
  TransformerConfig config;
  std::int64_t batch, context;
  double longest_sum;  // of any product in the forward or the backward pass
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

TransformerConfig shape(std::int64_t vocab, std::int64_t layers, std::int64_t width, std::int64_t heads,
                        const std::function<void(TransformerConfig&)>& change) {
  TransformerConfig c;
  c.vocab = vocab;
  c.padded_vocab = vocab;
  c.layers = layers;
  c.width = width;
  c.heads = heads;
  change(c);
  return c;
}

std::vector<Case> cases() {
  using C = TransformerConfig;
  const auto rotary = [](C& c) {
    c.positions = Positions::rotary;
    c.norm = NormKind::rms;
    c.qk_norm = true;
  };
  return {
      {"one_token", shape(11, 2, 30, 3, [](C&) {}), 3, 1, 120},
      {"one_token_of_everything", shape(1, 1, 4, 1, [](C&) {}), 1, 1, 16},
      {"narrow_and_long", shape(37, 2, 12, 2, [](C& c) { c.mlp_width = 7; }), 1, 300, 300},
      {"odd_heads", shape(101, 2, 27, 3, [](C& c) { c.mlp_width = 31; }), 3, 17, 101},
      {"grouped_and_wide_heads",
       shape(61, 1, 40, 6,
             [&](C& c) {
               rotary(c);
               c.head_dim = 34;
               c.kv_heads = 2;
               c.mlp = MlpKind::swiglu;
               c.mlp_width = 53;
             }),
       3, 131, 400},
      {"head_of_128",
       shape(61, 1, 128, 1,
             [&](C& c) {
               rotary(c);
               c.mlp = MlpKind::relu2;
               c.tied = false;
               c.head_bias = true;
               c.softcap = {Softcap::Kind::sigmoid, 30, 7.5, 0};
             }),
       2, 70, 512},
      {"full_vocabulary", shape(50257, 1, 9, 1, [](C& c) { c.padded_vocab = 50304; }), 1, 5, 50257},
  };
}

class OddShapes : public testing::TestWithParam<Case> {
 protected:
  Gradients run(Backend& backend, DType compute) {
    const Case& c = GetParam();
    ModelRun model(backend, c.config, c.batch, c.context, {.compute = compute});
    model.set_golden_weights();
    model.set_batch(some_tokens(c.batch * c.context, c.config.vocab, 1),
                    some_tokens(c.batch * c.context, c.config.vocab, 2));
    return model.gradients();
  }
};

// A gradient that is nothing but rounding (a tensor whose true gradient is zero) has no direction and no
// scale of its own: errors are measured against the largest element, but not below this share of the model's
// largest one.
double scale_of(const std::vector<double>& gradient, double largest_of_all) {
  return std::max(largest(gradient), 1e-3 * largest_of_all);
}

TEST_P(OddShapes, CpuAgreesWithFloat64) {
  const auto reference = make_reference_backend();
  const Gradients golden = run(*reference, DType::f64);
  double largest_of_all = 0;
  for (const auto& [name, g] : golden.of) largest_of_all = std::max(largest_of_all, largest(g));
  for (const bool onednn : {true, false}) {
    const auto cpu = make_cpu_backend({.use_onednn = onednn});
    for (const DType compute : {DType::f32, DType::bf16}) {
      SCOPED_TRACE(std::string(name_of(compute)) + (onednn ? ", oneDNN" : ", own products"));
      const double eps = compute == DType::f32 ? 0x1p-23 : 0x1p-8;
      // In bf16 every operation rounds its result once: errors follow the operations, not the length of sums,
      // which are float32.
      const double tolerance = compute == DType::f32 ? 4 * eps * std::sqrt(GetParam().longest_sum) : 16 * eps;
      const Gradients ours = run(*cpu, compute);
      EXPECT_LE(relative_error(ours.losses, golden.losses), tolerance);
      for (const auto& [name, g] : golden.of) {
        SCOPED_TRACE(name);
        const std::vector<double>& mine = ours.of.at(name);
        double error = 0;
        for (std::size_t i = 0; i < g.size(); ++i) error = std::max(error, std::abs(mine[i] - g[i]));
        EXPECT_LE(error, tolerance * scale_of(g, largest_of_all));
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, OddShapes, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& test) { return test.param.name; });

}  // namespace
}  // namespace spectrain::test
