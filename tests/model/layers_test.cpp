#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>

#include "model/program.h"
#include "tests/model/model_run.h"
#include "tests/reference/reference_backend.h"

// Operations of networks that are not transformers: gradients in float64 against differences of the loss,
// values against plain loops, float32 against float64.

namespace spectrain::test {
namespace {

using Record = std::function<Value(Tape&)>;
using Numbers = std::map<std::string, std::vector<float>>;
using Tokens = std::map<std::string, std::vector<std::int32_t>>;

std::vector<float> some_numbers(std::size_t count, std::uint64_t seed, double size = 1) {
  std::vector<float> list;
  for (const std::int32_t t : some_tokens(static_cast<std::int64_t>(count), 2001, seed))
    list.push_back(static_cast<float>(size * (t - 1000) / 1000.0));
  return list;
}

struct Network {
  Network(Backend& b, DType compute, const Record& record, const Numbers& numbers, const Tokens& tokens)
      : backend(b) {
    const Value losses = record(tape);
    rows = tape.shape(losses).numel();
    parameters = std::make_unique<Parameters>(tape, backend, compute, true);
    parameters->initialize(5);
    parameters->refresh();
    program = std::make_unique<Program>(tape, losses, *parameters, ProgramOptions{.compute = compute});
    evaluation = std::make_unique<Program>(tape, losses, *parameters,
                                           ProgramOptions{.compute = compute, .training = false});
    for (Program* p : {program.get(), evaluation.get()}) {
      for (const auto& [name, values] : numbers) p->set_input(name, std::span<const float>(values));
      for (const auto& [name, values] : tokens) p->set_input(name, std::span<const std::int32_t>(values));
    }
  }
  double loss() {
    evaluation->forward();
    double sum = 0;
    for (const double l : evaluation->host_result()) sum += l;
    return sum;
  }
  std::map<std::string, std::vector<double>> gradients() {
    program->forward_backward(1, false);
    std::map<std::string, std::vector<double>> of;
    for (const ParameterView& p : parameters->views()) of[p.info->name] = values_of(backend, p.gradient);
    return of;
  }
  Backend& backend;
  Tape tape;
  std::int64_t rows = 0;
  std::unique_ptr<Parameters> parameters;
  std::unique_ptr<Program> program, evaluation;
};

void check(const Record& record, const Numbers& numbers, const Tokens& tokens) {
  const auto reference = make_reference_backend();
  Network exact(*reference, DType::f64, record, numbers, tokens);
  const auto gradients = exact.gradients();
  double trained = 0;
  for (const double l : exact.program->host_result()) trained += l;
  EXPECT_NEAR(trained, exact.loss(), 1e-12 * (1 + std::abs(trained))) << "training and evaluation";
  for (const ParameterView& p : exact.parameters->views()) {
    const std::vector<double>& g = gradients.at(p.info->name);
    for (std::size_t k = 0; k < g.size(); ++k) {
      double& w = p.value.as<double>()[k];
      const double old = w, h = 1e-5;
      const auto loss_at = [&](double x) {
        w = x;
        exact.parameters->refresh();
        return exact.loss();
      };
      const double near = loss_at(old + h) - loss_at(old - h),
                   far = loss_at(old + 2 * h) - loss_at(old - 2 * h);
      w = old;
      EXPECT_NEAR(g[k], (8 * near - far) / (12 * h), 2e-8) << p.info->name << " element " << k;
    }
    exact.parameters->refresh();
  }
  // A second micro-batch adds the same again.
  exact.program->forward_backward(1, false);
  exact.program->forward_backward(1, true);
  for (const ParameterView& p : exact.parameters->views()) {
    const std::vector<double> twice = values_of(*reference, p.gradient);
    for (std::size_t k = 0; k < twice.size(); ++k)
      EXPECT_NEAR(twice[k], 2 * gradients.at(p.info->name)[k], 1e-10) << p.info->name;
  }
  const auto cpu = make_cpu_backend();
  Network tested(*cpu, DType::f32, record, numbers, tokens);
  EXPECT_NEAR(tested.loss(), exact.loss(), 1e-4 * (1 + std::abs(exact.loss())));
  for (const auto& [name, g] : tested.gradients())
    EXPECT_LE(relative_error(g, gradients.at(name)), 2e-4) << name;
}

Value matrix(Tape& t, const char* name, std::int64_t out, std::int64_t in) {
  return t.parameter(name, {out, in}, Role::hidden, Initializer::normal(0.5));
}
Value vector(Tape& t, const char* name, std::int64_t n, Role role) {
  return t.parameter(name, {n}, role, Initializer::normal(0.7));
}

TEST(Layers, SquaredErrorOfALinearMap) {
  const Record record = [](Tape& t) {
    const Value x = t.real_input("x", {6, 4});
    const Value y = t.linear(t.linear(x, matrix(t, "a", 5, 4)), matrix(t, "b", 3, 5));
    return t.squared_error(y, t.real_input("y", {6, 3}));
  };
  check(record, {{"x", some_numbers(24, 1)}, {"y", some_numbers(18, 2)}}, {});
  // By hand: one row, one column.
  const auto reference = make_reference_backend();
  Network one(*reference, DType::f64,
              [](Tape& t) {
                const Value w = t.parameter("w", {1, 1}, Role::hidden, Initializer::ones());
                return t.squared_error(t.linear(t.real_input("x", {1, 1}), w), t.real_input("y", {1, 1}));
              },
              {{"x", {3}}, {"y", {1}}}, {});
  EXPECT_EQ(one.loss(), 2);
  EXPECT_EQ(one.gradients().at("w")[0], 6);
}

TEST(Layers, MaskedSquaredError) {
  std::vector<float> mask(18);
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = i % 3 == 0 ? 0.0f : 1.0f;
  const Record record = [](Tape& t) {
    const Value y = t.linear(t.real_input("x", {6, 4}), matrix(t, "a", 3, 4));
    return t.squared_error(y, t.real_input("y", {6, 3}), t.real_input("mask", {6, 3}));
  };
  check(record, {{"x", some_numbers(24, 1)}, {"y", some_numbers(18, 2)}, {"mask", mask}}, {});
  const auto reference = make_reference_backend();
  Network masked(*reference, DType::f64, record,
                 {{"x", some_numbers(24, 1)}, {"y", some_numbers(18, 2)}, {"mask", mask}}, {});
  for (int k = 0; k < 4; ++k) EXPECT_EQ(masked.gradients().at("a")[static_cast<std::size_t>(k)], 0);
}

TEST(Layers, BatchNormWithAndWithoutGainAndBias) {
  for (const int parts : {0, 1, 2, 3}) {
    SCOPED_TRACE(parts);
    check(
        [parts](Tape& t) {
          Value x = t.linear(t.real_input("x", {7, 4}), matrix(t, "a", 5, 4));
          const Value gain = parts & 1 ? vector(t, "gain", 5, Role::gain) : Value{};
          const Value bias = parts & 2 ? vector(t, "bias", 5, Role::bias) : Value{};
          // Its input is read again, so that the gradient is added to one that is there.
          const Value y =
              t.add(t.activation(Activation::gelu, t.batch_norm(x, gain, bias, 1e-5)), t.scale(x, 0.3));
          return t.squared_error(y, t.real_input("y", {7, 5}));
        },
        {{"x", some_numbers(28, 1)}, {"y", some_numbers(35, 2)}}, {});
  }
}

TEST(Layers, BatchNormNormalises) {
  const auto reference = make_reference_backend();
  Tape t;
  const Value y = t.batch_norm(t.real_input("x", {9, 2}), {}, {}, 1e-12);
  Parameters none(t, *reference, DType::f64, false);
  Program program(t, y, none, {.compute = DType::f64, .training = false});
  const std::vector<float> x = some_numbers(18, 3, 50);
  program.set_input("x", std::span<const float>(x));
  program.forward();
  const std::vector<double> values = program.host_result();
  for (std::size_t c = 0; c < 2; ++c) {
    double sum = 0, squares = 0;
    for (std::size_t r = 0; r < 9; ++r) {
      sum += values[2 * r + c];
      squares += values[2 * r + c] * values[2 * r + c];
    }
    EXPECT_NEAR(sum, 0, 1e-12);
    EXPECT_NEAR(squares / 9, 1, 1e-12);
  }
}

// Against the definition in torch.nn.BatchNorm2d's documentation: running = (1 - momentum) running + momentum
// x, the variance unbiased; training normalises by the batch, evaluation by what runs.
TEST(Layers, BatchNormsRunningStatistics) {
  constexpr std::size_t kRows = 6, kColumns = 3;
  constexpr double kMomentum = 0.4, kEps = 1e-12;
  const Record record = [](Tape& t) {
    const Value bias = vector(t, "bias", kColumns, Role::bias);
    const Tape::RunningStatistics running{
        t.parameter("mean", {kColumns}, Role::fixed, Initializer::zeros()),
        t.parameter("variance", {kColumns}, Role::fixed, Initializer::ones()), kMomentum};
    const Value y = t.batch_norm(t.real_input("x", {kRows, kColumns}), {}, bias, kEps, running);
    return t.squared_error(y, t.real_input("y", {kRows, kColumns}));
  };
  const std::vector<float> zero(kRows * kColumns, 0);
  const auto reference = make_reference_backend();
  const auto cpu = make_cpu_backend();
  for (Backend* const backend : {reference.get(), cpu.get()}) {
    SCOPED_TRACE(backend->name());
    Network net(*backend, backend->master(), record, {{"x", zero}, {"y", zero}}, {});
    const double close = backend->master() == DType::f64 ? 1e-13 : 1e-5;
    const auto numbers = [&](const char* name) {
      return values_of(*backend,
                       net.parameters->view(static_cast<std::size_t>(net.parameters->find(name))).value);
    };
    const std::vector<double> bias = numbers("bias");
    double mean[kColumns] = {0, 0, 0}, variance[kColumns] = {1, 1, 1};
    std::vector<float> x;
    for (std::uint64_t step = 1; step <= 3; ++step) {
      x = some_numbers(kRows * kColumns, step, static_cast<double>(step));
      net.program->set_input("x", std::span<const float>(x));
      const auto gradients = net.gradients();
      EXPECT_EQ(gradients.at("mean"), std::vector<double>(kColumns, 0));
      double loss = 0, expected = 0;
      for (const double l : net.program->host_result()) loss += l;
      for (std::size_t c = 0; c < kColumns; ++c) {
        double sum = 0, squares = 0;
        for (std::size_t r = 0; r < kRows; ++r) sum += static_cast<double>(x[r * kColumns + c]);
        for (std::size_t r = 0; r < kRows; ++r)
          squares += std::pow(static_cast<double>(x[r * kColumns + c]) - sum / kRows, 2);
        // sum over rows of (h + bias)^2 / 2, h of mean 0
        expected += 0.5 * (squares / (squares / kRows + kEps) + kRows * bias[c] * bias[c]);
        mean[c] = (1 - kMomentum) * mean[c] + kMomentum * sum / kRows;
        variance[c] = (1 - kMomentum) * variance[c] + kMomentum * squares / (kRows - 1);
        EXPECT_NEAR(numbers("mean")[c], mean[c], close);
        EXPECT_NEAR(numbers("variance")[c], variance[c], close);
      }
      EXPECT_NEAR(loss, expected, 100 * close);
    }
    x = some_numbers(kRows * kColumns, 9, 2);
    net.evaluation->set_input("x", std::span<const float>(x));
    double expected = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const std::size_t c = i % kColumns;
      expected +=
          0.5 * std::pow((static_cast<double>(x[i]) - mean[c]) / std::sqrt(variance[c] + kEps) + bias[c], 2);
    }
    for (int again = 0; again < 2; ++again) EXPECT_NEAR(net.loss(), expected, 100 * close);
    EXPECT_NEAR(numbers("mean")[0], mean[0], close) << "an evaluation moved it";
  }
}

TEST(Layers, BatchNormRefusesHalfOfTheRunningStatistics) {
  Tape t;
  const Value x = t.real_input("x", {4, 2}), one = t.real_input("one", {1, 2});
  const Value mean = t.parameter("mean", {2}, Role::fixed, Initializer::zeros());
  const Value variance = t.parameter("variance", {2}, Role::fixed, Initializer::ones());
  EXPECT_THROW(t.batch_norm(x, {}, {}, 1e-5, {mean, {}, 0.1}), std::logic_error);
  EXPECT_THROW(t.batch_norm(x, {}, {}, 1e-5, {mean, variance, 1.5}), std::logic_error);
  EXPECT_THROW(t.batch_norm(one, {}, {}, 1e-5, {mean, variance, 0.1}), std::logic_error);
}

// What is fixed keeps its value and its gradient of zero, and what lies behind it still learns.
TEST(Layers, FixedFiltersGetNoGradient) {
  const Record record = [](Tape& t) {
    const Value first = matrix(t, "a", 4, 3);
    const Value frozen = t.parameter("frozen", {2, 4}, Role::fixed, Initializer::normal(1));
    const Value y = t.linear(t.linear(t.real_input("x", {5, 3}), first), frozen);
    return t.squared_error(y, t.real_input("y", {5, 2}));
  };
  const auto reference = make_reference_backend();
  Network net(*reference, DType::f64, record, {{"x", some_numbers(15, 1)}, {"y", some_numbers(10, 2)}}, {});
  const auto gradients = net.gradients();
  EXPECT_EQ(gradients.at("frozen"), std::vector<double>(8, 0));
  EXPECT_NE(gradients.at("a"), std::vector<double>(12, 0));
}

// A convolution against its definition, six loops, and against unfold() and a product.
TEST(Layers, ConvolutionsAreProducts) {
  const Patches p{.batch = 2,
                  .height = 5,
                  .width = 4,
                  .channels = 3,
                  .kernel_height = 3,
                  .kernel_width = 2,
                  .stride = 2,
                  .padding = 1};
  const Record record = [p](Tape& t) {
    const Value y =
        t.convolution(t.real_input("x", {p.pixels(), p.channels}), matrix(t, "w", 4, p.patch()), p);
    return t.squared_error(y, t.real_input("y", {p.places(), 4}));
  };
  const Record by_hand = [p](Tape& t) {
    const Value y =
        t.linear(t.unfold(t.real_input("x", {p.pixels(), p.channels}), p), matrix(t, "w", 4, p.patch()));
    return t.squared_error(y, t.real_input("y", {p.places(), 4}));
  };
  const std::vector<float> x = some_numbers(static_cast<std::size_t>(p.pixels() * p.channels), 1);
  const std::vector<float> zero(static_cast<std::size_t>(p.places() * 4), 0);
  check(record, {{"x", x}, {"y", some_numbers(zero.size(), 2)}}, {});
  const auto reference = make_reference_backend();
  Network conv(*reference, DType::f64, record, {{"x", x}, {"y", zero}}, {}),
      product(*reference, DType::f64, by_hand, {{"x", x}, {"y", zero}}, {});
  EXPECT_EQ(conv.loss(), product.loss());
  EXPECT_EQ(conv.gradients(), product.gradients());
  const std::vector<double> w = values_of(*reference, conv.parameters->view(0).value);
  double total = 0;
  for (std::int64_t b = 0; b < p.batch; ++b)
    for (std::int64_t oy = 0; oy < p.out_height(); ++oy)
      for (std::int64_t ox = 0; ox < p.out_width(); ++ox)
        for (std::int64_t o = 0; o < 4; ++o) {
          double sum = 0;
          for (std::int64_t i = 0; i < p.patch(); ++i) {
            const std::int64_t y = oy * 2 + i / 3 / 2 - 1, at = ox * 2 + i / 3 % 2 - 1;
            if (y < 0 || y >= p.height || at < 0 || at >= p.width) continue;
            sum += w[static_cast<std::size_t>(o * p.patch() + i)] *
                   static_cast<double>(
                       x[static_cast<std::size_t>(((b * p.height + y) * p.width + at) * 3 + i % 3)]);
          }
          total += 0.5 * sum * sum;
        }
  EXPECT_NEAR(conv.loss(), total, 1e-10);
}

TEST(Layers, ASmallConvolutionalNetwork) {
  const Patches first{.batch = 3,
                      .height = 6,
                      .width = 6,
                      .channels = 2,
                      .kernel_height = 3,
                      .kernel_width = 3,
                      .padding = 1};
  for (const PoolKind kind : {PoolKind::largest, PoolKind::mean})
    for (const double smoothing : {0.0, 0.2})
      check(
          [&](Tape& t) {
            Value x = t.convolution(t.real_input("x", {first.pixels(), 2}), matrix(t, "w1", 4, 18), first);
            x = t.activation(Activation::gelu, t.batch_norm(x, {}, vector(t, "b1", 4, Role::bias), 1e-5));
            const Patches half{.batch = 3,
                               .height = 6,
                               .width = 6,
                               .channels = 4,
                               .kernel_height = 2,
                               .kernel_width = 2,
                               .stride = 2};
            x = t.pool(kind, x, half);
            const Patches rest{
                .batch = 3, .height = 3, .width = 3, .channels = 4, .kernel_height = 3, .kernel_width = 3};
            const Value logits = t.convolution(x, matrix(t, "head", 5, 36), rest);
            return t.class_loss(logits, t.input("label", {3}), smoothing);
          },
          {{"x", some_numbers(static_cast<std::size_t>(first.pixels() * 2), 1)}}, {{"label", {0, 4, 2}}});
}

// More images than are unfolded at a time, whose number does not divide them: 200 of 48 KiB.
TEST(Layers, AConvolutionOfManyImages) {
  const Patches p{
      .batch = 200, .height = 16, .width = 16, .channels = 7, .kernel_height = 3, .kernel_width = 3};
  const auto record = [p](bool whole) {
    return [p, whole](Tape& t) {
      Value x = t.linear(t.real_input("x", {p.pixels(), 1}), matrix(t, "spread", 7, 1));
      const Value w = matrix(t, "w", 2, p.patch());
      x = whole ? t.convolution(x, w, p) : t.linear(t.unfold(x, p), w);
      return t.squared_error(x, t.real_input("y", {p.places(), 2}));
    };
  };
  const Numbers numbers{{"x", some_numbers(static_cast<std::size_t>(p.pixels()), 1)},
                        {"y", some_numbers(static_cast<std::size_t>(2 * p.places()), 2)}};
  const auto cpu = make_cpu_backend();
  Network parts(*cpu, DType::f32, record(true), numbers, {}),
      product(*cpu, DType::f32, record(false), numbers, {});
  EXPECT_NEAR(parts.loss(), product.loss(), 1e-6 * product.loss());
  const auto of_parts = parts.gradients(), of_product = product.gradients();
  for (const auto& [name, g] : of_product) {
    double largest = 0;
    for (const double x : g) largest = std::max(largest, std::abs(x));
    for (std::size_t i = 0; i < g.size(); ++i)
      EXPECT_NEAR(of_parts.at(name)[i], g[i], 1e-4 * largest) << name << " " << i;
  }
}

TEST(Layers, LabelSmoothingByItsDefinition) {
  const auto reference = make_reference_backend();
  const std::vector<float> x = some_numbers(4 * 3, 1, 3);
  const double s = 0.2;
  Network net(*reference, DType::f64,
              [s](Tape& t) {
                const Value w = t.parameter("w", {3, 3}, Role::hidden, Initializer::normal(1));
                return t.class_loss(t.linear(t.real_input("x", {4, 3}), w), t.input("label", {4}), s);
              },
              {{"x", x}}, {{"label", {2, 0, 1, 1}}});
  const std::vector<double> w = values_of(*reference, net.parameters->view(0).value);
  const int label[] = {2, 0, 1, 1};
  double total = 0;
  for (std::size_t r = 0; r < 4; ++r) {
    double z[3] = {}, sum = 0;
    for (std::size_t k = 0; k < 3; ++k) {
      for (std::size_t i = 0; i < 3; ++i) z[k] += w[k * 3 + i] * static_cast<double>(x[r * 3 + i]);
      sum += std::exp(z[k]);
    }
    for (int k = 0; k < 3; ++k) total -= ((k == label[r] ? 1 - s : 0) + s / 3) * (z[k] - std::log(sum));
  }
  EXPECT_NEAR(net.loss(), total, 1e-12);
}

TEST(Layers, NumbersAndTokensAreNotMixedUp) {
  const auto cpu = make_cpu_backend();
  Tape t;
  const Value y = t.batch_norm(t.real_input("x", {2, 2}), {}, {}, 1e-5);
  Parameters none(t, *cpu, DType::bf16, false);
  Program program(t, y, none, {.compute = DType::bf16, .training = false});
  const std::vector<std::int32_t> tokens(4);
  const std::vector<float> numbers(4), few(3);
  EXPECT_THROW(program.set_input("x", std::span<const std::int32_t>(tokens)), std::logic_error);
  EXPECT_THROW(program.set_input("x", std::span<const float>(few)), std::logic_error);
  EXPECT_THROW(program.set_input("y", std::span<const float>(numbers)), std::logic_error);
  EXPECT_NO_THROW(program.set_input("x", std::span<const float>(numbers)));
  EXPECT_THROW(t.batch_norm(t.real_input("z", {4}), {}, {}, 1), std::logic_error);
  EXPECT_THROW(t.squared_error(y, t.real_input("w", {2, 3})), std::logic_error);
}

}  // namespace
}  // namespace spectrain::test
