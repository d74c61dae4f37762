#include "train/lab/synthetic.h"

#include <algorithm>
#include <cmath>

namespace spectrain::lab {

Prototypes::Prototypes(std::uint64_t seed) {
  double total = 0;
  for (std::int64_t k = 0; k < kClasses; ++k) {
    std::vector<double> v;
    double norm = 0;
    for (std::int64_t i = 0; i < kWidth; ++i) {
      v.push_back(
          normal_at({seed, stream_of("prototypes")}, static_cast<std::uint64_t>(k * kWidth + i), 0, 1));
      norm += v.back() * v.back();
    }
    for (const double x : v) mean_.push_back(x / std::sqrt(norm));
    total += std::pow(static_cast<double>(k + 1), -1.5);
    cumulative_.push_back(total);
  }
  for (double& c : cumulative_) c /= total;
}

Examples Prototypes::draw(std::int64_t count, RandomKey key) const {
  Examples e;
  e.width = kWidth;
  for (std::int64_t i = 0; i < count; ++i) {
    const double u = uniform_at({key.seed, key.stream + 1}, static_cast<std::uint64_t>(i), 0, 1);
    const auto k = std::min<std::int64_t>(
        kClasses - 1, std::upper_bound(cumulative_.begin(), cumulative_.end(), u) - cumulative_.begin());
    add(e, k, key, i);
  }
  return e;
}

Examples Prototypes::balanced(std::int64_t first, std::int64_t last, std::int64_t each, RandomKey key) const {
  Examples e;
  e.width = kWidth;
  std::int64_t i = 0;
  for (std::int64_t k = first; k < last; ++k)
    for (std::int64_t n = 0; n < each; ++n) add(e, k, key, i++);
  return e;
}

double Prototypes::probability(std::int64_t k) const {
  const auto i = static_cast<std::size_t>(k);
  return cumulative_[i] - (k > 0 ? cumulative_[i - 1] : 0);
}

void Prototypes::add(Examples& e, std::int64_t k, RandomKey key, std::int64_t i) const {
  constexpr double kNoise = 0.6;
  for (std::int64_t j = 0; j < kWidth; ++j)
    e.x.push_back(static_cast<float>(mean_[static_cast<std::size_t>(k * kWidth + j)]) +
                  normal_at(key, static_cast<std::uint64_t>(i * kWidth + j), 0,
                            static_cast<float>(kNoise / std::sqrt(static_cast<double>(kWidth)))));
  e.label.push_back(static_cast<std::int32_t>(k));
}

Examples teacher_data(std::int64_t count, RandomKey key, RandomKey teacher) {
  Examples e;
  e.width = kTeacherInputs;
  std::uint64_t at = 0;
  std::vector<double> hidden(128), out(kTeacherClasses);
  for (std::int64_t i = 0; i < count; ++i) {
    const std::size_t first = e.x.size();
    for (std::int64_t k = 0; k < kTeacherInputs; ++k) {
      const double deviation = 3 * std::pow(10.0, -static_cast<double>(k) / (kTeacherInputs - 1));
      e.x.push_back(normal_at(key, at++, 0, static_cast<float>(deviation)));
    }
    for (std::size_t h = 0; h < hidden.size(); ++h) {
      double sum = 0;
      for (std::size_t k = 0; k < kTeacherInputs; ++k)
        sum += static_cast<double>(normal_at(teacher, h * kTeacherInputs + k, 0, 1)) *
               static_cast<double>(e.x[first + k]);
      hidden[h] = std::max(0.0, sum);
    }
    for (std::size_t c = 0; c < kTeacherClasses; ++c) {
      out[c] = 0;
      for (std::size_t h = 0; h < hidden.size(); ++h)
        out[c] += static_cast<double>(normal_at(teacher, 100000 + c * hidden.size() + h, 0, 1)) * hidden[h];
    }
    e.label.push_back(static_cast<std::int32_t>(std::max_element(out.begin(), out.end()) - out.begin()));
  }
  return e;
}

}  // namespace spectrain::lab
