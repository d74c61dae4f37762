#include <gtest/gtest.h>

#include <cmath>

#include "tests/model/model_run.h"
#include "tests/reference/reference_backend.h"

// Gradients in float64 against central differences of the loss along random directions, one per parameter
// tensor.

namespace spectrain::test {
namespace {

struct Case {
  std::string name;
  TransformerConfig config;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

TransformerConfig small(const std::function<void(TransformerConfig&)>& change) {
  TransformerConfig c;
  c.vocab = 19;
  c.padded_vocab = 24;
  c.context = 7;
  c.layers = 2;
  c.width = 16;
  c.heads = 4;
  c.mlp_width = 24;
  change(c);
  return c;
}

std::vector<Case> cases() {
  using C = TransformerConfig;
  return {
      {"gpt2", small([](C&) {})},
      {"gelu_untied_head_bias", small([](C& c) {
         c.mlp = MlpKind::gelu;
         c.tied = false;
         c.head_bias = true;
       })},
      {"rms_rotary_relu2", small([](C& c) {
         c.norm = NormKind::rms;
         c.positions = Positions::rotary;
         c.mlp = MlpKind::relu2;
         c.qk_norm = true;
         c.embedding_norm = true;
         c.linear_bias = false;
         c.softcap = {Softcap::Kind::tanh, 2, 1, 0};
       })},
      {"grouped_swiglu_interleaved", small([](C& c) {
         c.kv_heads = 1;
         c.head_dim = 6;
         c.norm = NormKind::rms;
         c.norm_gain = false;
         c.positions = Positions::rotary;
         c.rotary_pairs = RotaryPairs::interleaved;
         c.rotary_fraction = 0.67;
         c.mlp = MlpKind::swiglu;
         c.softcap = {Softcap::Kind::rational, 3, 1, 0};
       })},
      {"no_positions_layer_norm_without_bias", small([](C& c) {
         c.positions = Positions::none;
         c.norm_bias = false;
         c.qk_norm = true;
         c.attention_residual_factor = 0.5;
         c.softcap = {Softcap::Kind::sigmoid, 6, 2, 0.5};
       })},
      {"lambdas_skips_first_values_gates", small([](C& c) {
         c.layers = 4;
         c.norm = NormKind::rms;
         c.positions = Positions::rotary;
         c.embedding_norm = true;
         c.kv_heads = 2;
         c.x0_lambdas = c.skips = true;
         c.value_mix = ValueMix::first_layer;
         c.attention_gate = 5;
         c.smear_gate = 3;
       })},
      {"an_odd_number_of_layers_with_skips_and_a_table_each", small([](C& c) {
         c.layers = 3;
         c.skips = true;
         c.value_mix = ValueMix::table;
         c.value_tables = {1, 0, 1};
       })},
      {"tables_documents_windows", small([](C& c) {
         c.layers = 4;
         c.value_mix = ValueMix::scaled_table;
         c.visibility.documents = true;
         c.visibility.document_token = 2;
         c.visibility.window = {4};
         c.visibility.window_multiple = c.visibility.window_block = 2;
         c.visibility.short_layers = {0};
         c.value_tables = {0, -1, 1, 0};
         c.layers_without_attention = {1};
       })},
      {"layer_norm_with_bias_alone", small([](C& c) { c.norm_gain = false; })},
  };
}

class FiniteDifference : public testing::TestWithParam<Case> {};

TEST_P(FiniteDifference, EveryParameter) {
  const auto backend = make_reference_backend();
  const TransformerConfig& c = GetParam().config;
  const std::int64_t batch = 2, context = c.context;
  ModelRun model(*backend, c, batch, context, {.compute = DType::f64});
  model.set_golden_weights();
  model.set_batch(some_tokens(batch * context, c.vocab, 1), some_tokens(batch * context, c.vocab, 2));
  const Gradients g = model.gradients();

  for (const ParameterView& p : model.parameters().views()) {
    SCOPED_TRACE(p.info->name);
    const std::vector<double> start = values_of(*backend, p.value);
    const std::vector<double>& gradient = g.of.at(p.info->name);
    const std::int64_t columns = p.info->shape.numel() / p.info->shape[0];
    const auto real = static_cast<std::size_t>(columns * p.info->logical_rows);
    // A random sign per element: every element counts, and the step has length h everywhere.
    const std::vector<std::int32_t> coin = some_tokens(static_cast<std::int64_t>(real), 2, 3);
    double expected = 0;
    for (std::size_t i = 0; i < real; ++i) expected += (coin[i] ? 1 : -1) * gradient[i];
    const double h = 1e-5;
    const auto loss_at = [&](double step) {
      std::vector<double> moved = start;
      for (std::size_t i = 0; i < real; ++i) moved[i] += (coin[i] ? 1 : -1) * step;
      set_values(*backend, p.value, moved);
      model.parameters().refresh();
      return model.mean_loss();
    };
    // Two step sizes cancel the h^2 term: what is left is rounding, about 1e-16 loss / h.
    const double narrow = (loss_at(h) - loss_at(-h)) / (2 * h);
    const double wide = (loss_at(2 * h) - loss_at(-2 * h)) / (4 * h);
    const double measured = (4 * narrow - wide) / 3;
    double norm = 0;
    for (const double x : gradient) norm += x * x;
    // The first layer's own values are mixed with themselves: there the scalar changes nothing.
    const bool idle = p.info->name == "h.0.attention.value_mix" && c.value_mix == ValueMix::first_layer;
    EXPECT_EQ(norm > 1e-30, !idle);
    EXPECT_NEAR(measured, expected, 2e-9 + 1e-7 * std::sqrt(norm));
    set_values(*backend, p.value, start);
    model.parameters().refresh();
  }
}

INSTANTIATE_TEST_SUITE_P(Models, FiniteDifference, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& test) { return test.param.name; });

}  // namespace
}  // namespace spectrain::test
