#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/random.h"
#include "train/lab/network.h"

namespace spectrain::lab {

// Rows of numbers with a class each.
struct Examples {
  std::int64_t width = 0;  // numbers of one example
  std::vector<float> x;    // [count, width]
  std::vector<std::int32_t> label;
  std::int64_t count() const { return static_cast<std::int64_t>(label.size()); }
};

// A permutation of [0, count) from the key alone.
std::vector<std::int64_t> shuffled(std::int64_t count, RandomKey key);

// A network that sorts rows into classes: `logits` records [batch, classes] from the real input "x" [batch,
// width]. Training minimises the mean of the losses (or their sum) of a batch.
struct ClassifierOptions {
  std::int64_t batch = 0, width = 0, classes = 10;
  double smoothing = 0;
  bool sum = false;  // of the losses of a batch, not the mean
};
class Classifier {
 public:
  using Logits = std::function<Value(Tape&, Value x)>;
  Classifier(Backend& backend, const ClassifierOptions& options, const Logits& logits,
             const OptimizerConfig& rules, std::uint64_t seed);

  // One step on the examples rows[0 .. batch): the mean loss before it.
  double step(const Examples& examples, std::span<const std::int64_t> rows, double lr_factor);
  // The same with numbers that the caller made: x [batch, width].
  double step(std::span<const float> x, std::span<const std::int32_t> labels, double lr_factor);
  // Share of the examples that are sorted rightly, in whole batches; the rest of the last batch is filled up
  // with the first examples, which are not counted again.
  double accuracy(const Examples& examples);
  double mean_loss(const Examples& examples);
  // Sum over `views` of the logits of x [batch, width] and of other views of it: the class with the largest.
  std::vector<double> logits(std::span<const float> x);
  Network& network() { return network_; }

 private:
  template <class Each>
  void each_batch(const Examples& examples, const Each& each);
  ClassifierOptions options_;
  Logits record_;
  Network network_;
  std::vector<float> x_;
  std::vector<std::int32_t> labels_;
};

// A multi-layer perceptron with ReLU, widths[0] inputs to widths.back() outputs; weights "w0", "w1" ... with
// He et al.'s initialisation (2015): N(0, 2 / fan_in) before a ReLU, N(0, 1 / fan_in) at the end. The last
// has the role head. With batch norm, without gain, after each product but the last; biases where `biases`.
struct PerceptronOptions {
  std::vector<std::int64_t> widths;
  bool batch_norm = false, biases = true;
};
Value perceptron(Tape& t, Value x, const PerceptronOptions& options);

}  // namespace spectrain::lab
