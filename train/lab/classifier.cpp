#include "train/lab/classifier.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

namespace spectrain::lab {

std::vector<std::int64_t> shuffled(std::int64_t count, RandomKey key) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  for (std::int64_t i = count - 1; i > 0; --i) {
    const auto j = static_cast<std::int64_t>(random_u32(key, static_cast<std::uint64_t>(i)) %
                                             static_cast<std::uint64_t>(i + 1));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(j)]);
  }
  return order;
}

Classifier::Classifier(Backend& backend, const ClassifierOptions& options, const Logits& logits,
                       const OptimizerConfig& rules, std::uint64_t seed)
    : options_(options),
      record_(logits),
      network_(
          backend,
          [&](Tape& t) {
            const Value x = t.real_input("x", {options.batch, options.width});
            return t.class_loss(logits(t, x), t.input("label", {options.batch}), options.smoothing);
          },
          rules, options.sum ? 1.0 : 1.0 / static_cast<double>(options.batch), seed),
      x_(static_cast<std::size_t>(options.batch * options.width)),
      labels_(static_cast<std::size_t>(options.batch)) {}

double Classifier::step(std::span<const float> x, std::span<const std::int32_t> labels, double lr_factor) {
  network_.training().set_input("x", x);
  network_.training().set_input("label", labels);
  return network_.step(lr_factor) / static_cast<double>(options_.batch);
}

double Classifier::step(const Examples& examples, std::span<const std::int64_t> rows, double lr_factor) {
  const auto width = static_cast<std::size_t>(options_.width);
  for (std::size_t i = 0; i < labels_.size(); ++i) {
    const auto row = static_cast<std::size_t>(rows[i]);
    std::copy_n(examples.x.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                x_.begin() + static_cast<std::ptrdiff_t>(i * width));
    labels_[i] = examples.label[row];
  }
  return step(x_, labels_, lr_factor);
}

std::vector<double> Classifier::logits(std::span<const float> x) {
  Program& program = network_.evaluation("logits", [&](Tape& t) {
    return record_(t, t.real_input("x", {options_.batch, options_.width}));
  });
  program.set_input("x", x);
  program.forward();
  return program.host_result();
}

// each(first example, count, logits of the batch)
template <class Each>
void Classifier::each_batch(const Examples& examples, const Each& each) {
  const auto width = static_cast<std::size_t>(options_.width);
  for (std::int64_t first = 0; first < examples.count(); first += options_.batch) {
    const std::int64_t count = std::min(options_.batch, examples.count() - first);
    for (std::int64_t i = 0; i < options_.batch; ++i) {
      const auto row = static_cast<std::size_t>(i < count ? first + i : (i - count) % examples.count());
      std::copy_n(examples.x.begin() + static_cast<std::ptrdiff_t>(row * width), width,
                  x_.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(i) * width));
    }
    each(first, count, logits(x_));
  }
}

double Classifier::accuracy(const Examples& examples) {
  const auto classes = static_cast<std::size_t>(options_.classes);
  std::int64_t right = 0;
  each_batch(examples, [&](std::int64_t first, std::int64_t count, const std::vector<double>& z) {
    for (std::int64_t i = 0; i < count; ++i) {
      const auto begin = z.begin() + static_cast<std::ptrdiff_t>(static_cast<std::size_t>(i) * classes);
      const auto best = std::max_element(begin, begin + static_cast<std::ptrdiff_t>(classes)) - begin;
      right += best == examples.label[static_cast<std::size_t>(first + i)] && !std::isnan(*begin);
    }
  });
  return static_cast<double>(right) / static_cast<double>(examples.count());
}

double Classifier::mean_loss(const Examples& examples) {
  const auto classes = static_cast<std::size_t>(options_.classes);
  double sum = 0;
  each_batch(examples, [&](std::int64_t first, std::int64_t count, const std::vector<double>& z) {
    for (std::int64_t i = 0; i < count; ++i) {
      const double* row = z.data() + static_cast<std::size_t>(i) * classes;
      const double top = *std::max_element(row, row + classes);
      double total = 0;
      for (std::size_t k = 0; k < classes; ++k) total += std::exp(row[k] - top);
      sum += top + std::log(total) - row[examples.label[static_cast<std::size_t>(first + i)]];
    }
  });
  return sum / static_cast<double>(examples.count());
}

Value perceptron(Tape& t, Value x, const PerceptronOptions& o) {
  const std::size_t layers = o.widths.size() - 1;
  for (std::size_t l = 0; l < layers; ++l) {
    const bool last = l + 1 == layers;
    const double fan_in = static_cast<double>(o.widths[l]);
    const Value w =
        t.parameter(fmt::format("w{}", l), {o.widths[l + 1], o.widths[l]}, last ? Role::head : Role::hidden,
                    Initializer::normal(std::sqrt((last ? 1 : 2) / fan_in)));
    const Value bias =
        o.biases ? t.parameter(fmt::format("b{}", l), {o.widths[l + 1]}, Role::bias, Initializer::zeros())
                 : Value{};
    if (!last && o.batch_norm)
      x = t.activation(Activation::relu, t.batch_norm(t.linear(x, w), {}, bias, 1e-5));
    else
      x = last ? t.linear(x, w, bias) : t.activation(Activation::relu, t.linear(x, w, bias));
  }
  return x;
}

}  // namespace spectrain::lab
