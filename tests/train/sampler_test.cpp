#include "train/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "data/tokenizer.h"
#include "kernels/random.h"
#include "tests/train/tiny_run.h"
#include "train/session.h"

namespace spectrain {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

double draw_at(std::uint64_t i) {
  return static_cast<double>(random_u64({11, stream_of("draws")}, i) >> 11) * 0x1p-53;
}

TEST(ChooseToken, TemperatureZeroTakesTheLikeliest) {
  const std::vector<float> logits = {0.5f, -1, 3, 2.9f, 3, -7};
  for (std::uint64_t i = 0; i < 20; ++i)
    EXPECT_EQ(choose_token(logits, {.temperature = 0}, draw_at(i)), 2) << "ties go to the smaller id";
  EXPECT_EQ(choose_token(logits, {.temperature = 0, .top_k = 3}, 0.999), 2);
  const std::vector<float> all_equal(50, 1.0f);
  EXPECT_EQ(choose_token(all_equal, {.temperature = 0}, 0.7), 0);
}

TEST(ChooseToken, TopKKnowsNoOtherTokens) {
  const std::vector<float> logits = {1, 4, 2, 4, 3, 4, 0};
  std::vector<int> seen(logits.size());
  for (std::uint64_t i = 0; i < 2000; ++i)
    ++seen[static_cast<std::size_t>(choose_token(logits, {.temperature = 5, .top_k = 2}, draw_at(i)))];
  EXPECT_GT(seen[1], 900);
  EXPECT_GT(seen[3], 900);
  EXPECT_EQ(seen[1] + seen[3], 2000) << "of three equal ones the two smaller ids";
  for (const double draw : {0.0, 0.5, 0x1.fffffffffffffp-1})
    EXPECT_EQ(choose_token(logits, {.temperature = 1, .top_k = 1}, draw), 1);
  // More than there are is all of them.
  EXPECT_EQ(choose_token(logits, {.temperature = 1, .top_k = 100}, 0.4),
            choose_token(logits, {.temperature = 1}, 0.4));
}

TEST(ChooseToken, TheLargestDrawIsATokenToo) {
  // Rounding must not lead past the end, nor to a token of no probability.
  std::vector<float> logits(1000, -1000.0f);
  logits[3] = 0;
  logits[500] = 0.001f;
  for (const double draw : {0.0, 0.25, 0.75, 0x1.fffffffffffffp-1}) {
    const std::int32_t id = choose_token(logits, {}, draw);
    EXPECT_TRUE(id == 3 || id == 500) << id;
  }
  EXPECT_EQ(choose_token(std::vector<float>{2.0f}, {}, 0.9), 0);
}

// Pearson's statistic against the softmax, computed here in double.
double chi_square(const std::vector<float>& logits, const SamplingOptions& options, int draws) {
  std::vector<double> expected;
  double sum = 0;
  for (const float z : logits) sum += expected.emplace_back(std::exp(z / options.temperature));
  std::vector<int> seen(logits.size());
  for (int i = 0; i < draws; ++i)
    ++seen[static_cast<std::size_t>(choose_token(logits, options, draw_at(static_cast<std::uint64_t>(i))))];
  double statistic = 0;
  for (std::size_t i = 0; i < seen.size(); ++i) {
    const double e = expected[i] / sum * draws;
    statistic += (seen[i] - e) * (seen[i] - e) / e;
  }
  return statistic;
}

TEST(ChooseToken, DrawsFollowTheSoftmax) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 1);
  std::vector<float> logits(20);
  for (float& z : logits) z = normal(random);
  // 99.9 % quantile of chi-square with 19 degrees of freedom: 43.8.
  for (const double temperature : {0.7, 1.0, 2.0})
    EXPECT_LT(chi_square(logits, {.temperature = temperature}, 40'000), 43.8) << temperature;
  // It would see a temperature that is a few per cent off.
  std::vector<float> cooler = logits;
  for (float& z : cooler) z *= 1.1f;
  SamplingOptions options;
  options.temperature = 1.1;
  EXPECT_LT(chi_square(cooler, options, 40'000), 43.8 + 43.8);
  options.temperature = 1.0;
  std::vector<int> seen(20);
  double statistic = 0, sum = 0;
  for (const float z : logits) sum += std::exp(z);
  for (std::uint64_t i = 0; i < 40'000; ++i)
    ++seen[static_cast<std::size_t>(choose_token(cooler, options, draw_at(i)))];
  for (std::size_t i = 0; i < 20; ++i) {
    const double e = std::exp(logits[i]) / sum * 40'000;
    statistic += (seen[i] - e) * (seen[i] - e) / e;
  }
  EXPECT_GT(statistic, 43.8);
}

// A model with weights that say something, of a context that is no power of two.
struct RandomModel {
  TransformerConfig config;
  std::unique_ptr<Backend> backend = make_cpu_backend({.threads = 1});
  std::unique_ptr<Parameters> parameters;
  DType compute;

  RandomModel(DType precision, bool tied, Softcap cap) : compute(precision) {
    config.vocab = 61;
    config.context = 24;
    config.layers = 2;
    config.width = 32;
    config.heads = 2;
    config.positions = tied ? Positions::learned : Positions::rotary;
    config.tied = tied;
    config.softcap = cap;
    config.head_bias = !tied;
    config.init_std = 0.2;
    config.embedding_std = 0.5;
    config.residual_scaling = false;
    config = config.resolved();
    Tape tape;
    transformer(tape, config, 1, 1);
    parameters = std::make_unique<Parameters>(tape, *backend, compute, false);
    parameters->initialize(3);
    if (!tied) {  // a bias of zeros would not be missed
      const auto view = parameters->view(static_cast<std::size_t>(parameters->find("head.bias")));
      backend->fill_uniform(view.value, {9, 9}, -1, 1);
    }
    parameters->refresh();
  }

  // The logits after every one of up to `context` tokens, by the model as it was recorded for evaluation.
  std::vector<std::vector<double>> plain(std::span<const std::int32_t> tokens) {
    Tape tape;
    const auto length = static_cast<std::int64_t>(tokens.size());
    const Value logits = transformer_logits(tape, config, 1, length);
    ProgramOptions options;
    options.compute = compute;
    options.training = false;
    Program program(tape, logits, *parameters, options);
    program.set_input("tokens", tokens);
    program.forward();
    const std::vector<double> all = program.host_result();
    std::vector<std::vector<double>> rows;
    for (std::int64_t r = 0; r < length; ++r) {
      const auto begin = all.begin() + r * config.padded_vocab;
      rows.emplace_back(begin, begin + config.vocab);
      for (double& z : rows.back()) z = softcapped(config.softcap, static_cast<float>(z));
    }
    return rows;
  }
};

std::vector<std::int32_t> random_ids(std::size_t count, std::int64_t vocab) {
  std::vector<std::int32_t> ids;
  for (std::uint64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(random_u32({4, 4}, i) % static_cast<std::uint32_t>(vocab)));
  return ids;
}

void expect_plain_logits(DType compute, bool tied, Softcap cap, double eps) {
  RandomModel model(compute, tied, cap);
  Sampler sampler(model.config, *model.parameters, compute);
  const auto ids = random_ids(60, model.config.vocab);
  for (const std::size_t length : {1u, 2u, 7u, 15u, 16u, 17u, 23u, 24u, 25u, 40u, 60u}) {
    SCOPED_TRACE(length);
    const auto tokens = std::span(ids).first(length);
    // Beyond the context the window slides: the oldest tokens are forgotten.
    const auto window = tokens.last(std::min<std::size_t>(length, 24));
    const std::vector<double> expected = model.plain(window).back();
    const std::vector<float> got = sampler.next_logits(tokens);
    ASSERT_EQ(got.size(), 61u) << "rows of padding are no tokens";
    double largest = 0, spread = 0;
    for (const double z : expected) largest = std::max(largest, std::abs(z));
    for (std::size_t i = 0; i < got.size(); ++i) {
      EXPECT_NEAR(got[i], expected[i], 4 * eps * std::sqrt(32.0) * largest) << i;
      spread = std::max(spread, std::abs(expected[i] - expected[0]));
    }
    EXPECT_GT(spread, 0.3) << "logits that are all equal prove nothing";
  }
}

TEST(Sampler, LogitsAreThoseOfAPlainForward) {
  Softcap tanh_cap;
  tanh_cap.kind = Softcap::Kind::tanh;
  tanh_cap.cap = 3;
  expect_plain_logits(DType::f32, true, {}, 0x1p-23);
  expect_plain_logits(DType::f32, false, tanh_cap, 0x1p-23);
  expect_plain_logits(DType::bf16, true, tanh_cap, 0x1p-8);
  expect_plain_logits(DType::bf16, false, {}, 0x1p-8);
}

TEST(Sampler, TheSameSeedGivesTheSameText) {
  RandomModel model(DType::f32, true, {});
  Sampler sampler(model.config, *model.parameters, model.compute);
  const auto continued = [&](std::uint64_t seed, std::int64_t count, double temperature = 1) {
    std::vector<std::int32_t> tokens = {5, 6};
    std::vector<std::int32_t> told;
    sampler.extend(tokens, count, {.temperature = temperature, .seed = seed}, -1,
                   [&](std::int32_t id) { told.push_back(id); });
    EXPECT_EQ(std::vector<std::int32_t>(tokens.begin() + 2, tokens.end()), told);
    EXPECT_EQ(static_cast<std::int64_t>(told.size()), count);
    for (const std::int32_t id : told) EXPECT_TRUE(id >= 0 && id < 61);
    return told;
  };
  const auto once = continued(1, 50);
  EXPECT_EQ(continued(1, 50), once);
  EXPECT_NE(continued(2, 50), once);
  // Asking for fewer gives the beginning of the same text.
  EXPECT_EQ(continued(1, 20), std::vector<std::int32_t>(once.begin(), once.begin() + 20));
  EXPECT_EQ(continued(1, 30, 0), continued(2, 30, 0));

  // It ends at the stop token, which is not part of the text.
  std::vector<std::int32_t> tokens = {5, 6};
  sampler.extend(tokens, 50, {.seed = 1}, once[10], {});
  const auto first = std::find(once.begin(), once.end(), once[10]) - once.begin();
  EXPECT_EQ(tokens.size(), 2 + static_cast<std::size_t>(first));
  EXPECT_THROW(sampler.next_logits({}), std::logic_error);
}

TEST(SampleCommand, PrintsThePromptAndGoesOn) {
  const TinyRun tiny;
  train(tiny.config(), named("talks", {"train.steps=60", "train.validate.every=0",
                                       "data.train=" + (tiny / "long/train_*.bin")}));
  const auto sample = [&](std::vector<std::string> more) {
    std::vector<std::string> arguments = {"sample", "--checkpoint", tiny.directory("talks"), "--tokens",
                                          "30"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    const Finished f = run_program(arguments, tiny / "sample-output");
    EXPECT_EQ(f.code, 0) << f.err;
    return f.out;
  };
  const std::string text = sample({"--prompt", "the quick river"});
  EXPECT_THAT(text, StartsWith("the quick river"));
  EXPECT_GT(text.size(), 20u);
  EXPECT_LE(text.size(), 15u + 30 + 1);
  EXPECT_EQ(text.back(), '\n');
  EXPECT_EQ(sample({"--prompt", "the quick river"}), text);
  EXPECT_NE(sample({"--prompt", "the quick river", "--seed", "2"}), text);
  EXPECT_EQ(sample({"--temperature", "0"}), sample({"--temperature", "0", "--seed", "9"}));
  EXPECT_EQ(sample({"--top-k", "1"}), sample({"--temperature", "0"}));

  // A checkpoint's own directory does as well; a place that is neither does not.
  const auto step = tiny.checkpoints("talks") + "/step-00000060";
  const Finished by_step =
      run_program({"sample", "--checkpoint", step, "--tokens", "30", "--prompt", "the quick river"},
                  tiny / "sample-output");
  EXPECT_EQ(by_step.out, text) << by_step.err;
  const Finished nowhere =
      run_program({"sample", "--checkpoint", tiny / "short", "--tokens", "3"}, tiny / "sample-output");
  EXPECT_EQ(nowhere.code, 2);
  EXPECT_THAT(nowhere.err, HasSubstr(tiny / "short"));
}

}  // namespace
}  // namespace spectrain
