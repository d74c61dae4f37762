#pragma once

#include <cstdint>
#include <vector>

#include "train/lab/classifier.h"

// Examples that are made up: the same for the same key, on any machine.

namespace spectrain::lab {

// Classes of a long tail (E15). Class k of 400 is drawn with probability ~ (k + 1)^-1.5 and lies around its
// own prototype, a unit vector of 256 numbers, with Gaussian noise of deviation .6 / sqrt(256) per number.
class Prototypes {
 public:
  static constexpr std::int64_t kClasses = 400, kWidth = 256;
  explicit Prototypes(std::uint64_t seed);
  // `count` examples of the classes' own frequencies.
  Examples draw(std::int64_t count, RandomKey key) const;
  // `each` examples of every class from `first` up to `last`, which is left out.
  Examples balanced(std::int64_t first, std::int64_t last, std::int64_t each, RandomKey key) const;
  double probability(std::int64_t k) const;

 private:
  void add(Examples& e, std::int64_t k, RandomKey key, std::int64_t i) const;
  std::vector<double> mean_, cumulative_;
};

// What a random perceptron 64-128-10 with ReLU says of Gaussian inputs (E10) whose deviations fall from 3 to
// .3, from input to input by the same factor.
inline constexpr std::int64_t kTeacherInputs = 64, kTeacherClasses = 10;
Examples teacher_data(std::int64_t count, RandomKey key, RandomKey teacher);

}  // namespace spectrain::lab
