#include "train/lab/memory_rotated.h"

#include <algorithm>
#include <cmath>

namespace spectrain::lab {

RotatedMemory::RotatedMemory(const MemoryTask& task, std::uint64_t seed)
    : task_(task),
      inputs_(random_orthogonal(task.items(), key_of(seed, "input embeddings"))),
      outputs_(random_orthogonal(task.items(), key_of(seed, "output embeddings"))),
      inputs_t_(transposed(inputs_)),
      outputs_t_(transposed(outputs_)) {}

Matrix RotatedMemory::to_coordinates(const Matrix& in_basis) const {
  return product(product(outputs_, in_basis), inputs_t_);
}
Matrix RotatedMemory::to_basis(const Matrix& weight) const {
  return product(product(outputs_t_, weight), inputs_);
}

RotatedMemory::Seen memory_gradient(const MemoryTask& task, const Matrix& logits) {
  const std::int64_t k = task.items();
  RotatedMemory::Seen seen;
  seen.in_basis = Matrix(k, k);
  seen.correct.assign(static_cast<std::size_t>(task.groups), 0);
  for (std::int64_t j = 0; j < k; ++j) {
    const std::int64_t group = j / task.per_group;
    double most = logits(0, j), sum = 0;
    for (std::int64_t i = 1; i < k; ++i) most = std::max(most, logits(i, j));
    for (std::int64_t i = 0; i < k; ++i) sum += std::exp(logits(i, j) - most);
    const double normalizer = most + std::log(sum);
    double cross = 0;
    for (std::int64_t i = 0; i < k; ++i) {
      const double p = std::exp(logits(i, j) - normalizer), answer = i == j ? task.right() : task.wrong();
      seen.in_basis(i, j) = task.frequency(group) * (p - answer);
      cross -= answer * (logits(i, j) - normalizer);
    }
    seen.correct[static_cast<std::size_t>(group)] +=
        std::exp(logits(j, j) - normalizer) / static_cast<double>(task.per_group);
    seen.excess += task.frequency(group) * (cross - task.entropy());
  }
  return seen;
}

RotatedMemory::Seen RotatedMemory::look(const Matrix& weight) const {
  Seen seen = memory_gradient(task_, to_basis(weight));
  seen.gradient = to_coordinates(seen.in_basis);
  return seen;
}

namespace {

Matrix signs(Matrix x) {
  for (double& v : x.a) v = v > 0 ? 1 : v < 0 ? -1 : 0;
  return x;
}

}  // namespace

MemoryTraining::MemoryTraining(const RotatedMemory& memory, const MemoryTask& task, FullRule rule, double eta,
                               Backend& backend)
    : memory_(memory), rule_(rule), eta_(eta), weight_(task.items(), task.items()) {
  if (rule == FullRule::own_muon)
    own_ = std::make_unique<OwnRule>(backend, plain_muon(keller_newton_schulz(5)), weight_);
  if (rule == FullRule::own_spectral)
    own_ = std::make_unique<OwnRule>(backend, plain_spectral_descent(), weight_);
  if (rule == FullRule::adam) first_ = second_ = weight_;
}

Matrix MemoryTraining::direction(const RotatedMemory::Seen& seen) {
  switch (rule_) {
    case FullRule::normalized:
      return scaled(1 / frobenius(seen.gradient), seen.gradient);
    case FullRule::orthogonal:
      return polar(seen.gradient).factor;
    case FullRule::newton_schulz:
      return newton_schulz(seen.gradient, keller_newton_schulz(5));
    case FullRule::sign_in_basis:
      return memory_.to_coordinates(signs(seen.in_basis));
    case FullRule::sign:
      return signs(seen.gradient);
    case FullRule::adam: {
      constexpr double kBeta1 = 0.9, kBeta2 = 0.99;
      Matrix d = seen.gradient;
      for (std::size_t i = 0; i < d.a.size(); ++i) {
        first_.a[i] = kBeta1 * first_.a[i] + (1 - kBeta1) * d.a[i];
        second_.a[i] = kBeta2 * second_.a[i] + (1 - kBeta2) * d.a[i] * d.a[i];
        const double mean = first_.a[i] / (1 - std::pow(kBeta1, steps_ + 1)),
                     square = second_.a[i] / (1 - std::pow(kBeta2, steps_ + 1));
        d.a[i] = mean / (std::sqrt(square) + 1e-12);
      }
      return d;
    }
    case FullRule::gradient:
    case FullRule::own_muon:
    case FullRule::own_spectral:
      break;
  }
  return seen.gradient;
}

void MemoryTraining::step(const RotatedMemory::Seen& seen) {
  if (own_) {
    own_->step(seen.gradient, eta_);
    weight_ = own_->weight();
  } else {
    add_scaled(weight_, -eta_, direction(seen));
  }
  ++steps_;
}

}  // namespace spectrain::lab
