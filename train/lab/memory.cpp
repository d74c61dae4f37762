#include "train/lab/memory.h"

#include <cmath>
#include <stdexcept>

namespace spectrain::lab {
namespace {

double sign(double x) { return x > 0 ? 1 : x < 0 ? -1 : 0; }

double times_log(double p) { return p > 0 ? p * std::log(p) : 0; }

}  // namespace

MemoryTask::MemoryTask(std::int64_t m, std::int64_t c, double beta, double noise)
    : groups(m), per_group(c), alpha(noise), shares(static_cast<std::size_t>(m)) {
  if (m < 1 || c < 1) throw std::logic_error("a memory without items");
  double sum = 0;
  for (std::int64_t g = 0; g < m; ++g)
    sum += shares[static_cast<std::size_t>(g)] = std::pow(static_cast<double>(g + 1), -beta);
  for (double& s : shares) s /= sum;
}

double MemoryTask::entropy() const {
  return -times_log(right()) - static_cast<double>(items() - 1) * times_log(wrong());
}

void GroupedMatrix::add_scaled(double q, const GroupedMatrix& other) {
  for (std::size_t g = 0; g < a.size(); ++g) a[g] += q * other.a[g];
  lab::add_scaled(b, q, other.b);
}

Matrix expanded(const GroupedMatrix& w, std::int64_t per_group) {
  const std::int64_t k = w.b.rows * per_group;
  Matrix full(k, k);
  for (std::int64_t i = 0; i < k; ++i)
    for (std::int64_t j = 0; j < k; ++j) full(i, j) = w.b(i / per_group, j / per_group);
  for (std::int64_t j = 0; j < k; ++j) full(j, j) += w.a[static_cast<std::size_t>(j / per_group)];
  return full;
}

MemoryState evaluate(const MemoryTask& task, const GroupedMatrix& w) {
  const std::int64_t m = task.groups;
  const double c = static_cast<double>(task.per_group), entropy = task.entropy();
  MemoryState state{GroupedMatrix(m), std::vector<double>(static_cast<std::size_t>(m)),
                    std::vector<double>(static_cast<std::size_t>(m)), 0};
  std::vector<double> odds(
      static_cast<std::size_t>(m));  // of one wrong answer of a group against the right one
  for (std::int64_t g = 0; g < m; ++g) {
    const auto at = static_cast<std::size_t>(g);
    const double logit = w.a[at] + w.b(g, g);
    double rest = 0;
    for (std::int64_t h = 0; h < m; ++h) {
      const double o = odds[static_cast<std::size_t>(h)] = std::exp(w.b(h, g) - logit);
      rest += (h == g ? c - 1 : c) * o;
    }
    // log1p keeps a loss of 1e-10 exact where 1 - p would not.
    const double loss = std::log1p(rest), right = 1 / (1 + rest);
    double cross = task.right() * loss;
    for (std::int64_t h = 0; h < m; ++h) {
      const double wrong = odds[static_cast<std::size_t>(h)] * right;
      cross += (h == g ? c - 1 : c) * task.wrong() * (loss - (w.b(h, g) - logit));
      state.gradient.b(h, g) = task.frequency(g) * (wrong - task.wrong());
    }
    // p - q as (1 - q) - (1 - p): near the end both are small.
    const double error = (1 - task.right()) - rest * right;
    state.gradient.a[at] = task.frequency(g) * error - state.gradient.b(g, g);
    state.excess[at] = cross - entropy;
    state.correct[at] = right;
    state.total += task.share(g) * state.excess[at];
  }
  return state;
}

namespace {

double frobenius_of(const MemoryTask& task, const GroupedMatrix& x) {
  const double c = static_cast<double>(task.per_group);
  double sum = 0;
  for (std::int64_t g = 0; g < task.groups; ++g)
    for (std::int64_t h = 0; h < task.groups; ++h) {
      const double b = x.b(h, g), d = x.a[static_cast<std::size_t>(g)] + b;
      sum += h == g ? c * (d * d + (c - 1) * b * b) : c * c * b * b;
    }
  return std::sqrt(sum);
}

GroupedMatrix signs(const GroupedMatrix& x) {
  GroupedMatrix d(x.b.rows);
  for (std::size_t i = 0; i < x.b.a.size(); ++i) d.b.a[i] = sign(x.b.a[i]);
  for (std::int64_t g = 0; g < x.b.rows; ++g)
    d.a[static_cast<std::size_t>(g)] = sign(x.a[static_cast<std::size_t>(g)] + x.b(g, g)) - sign(x.b(g, g));
  return d;
}

GroupedMatrix orthogonal(const MemoryTask& task, const GroupedMatrix& x) {
  const double c = static_cast<double>(task.per_group);
  Matrix means = scaled(c, x.b);
  for (std::int64_t g = 0; g < task.groups; ++g) means(g, g) += x.a[static_cast<std::size_t>(g)];
  GroupedMatrix d(task.groups);
  d.b = polar(means).factor;
  for (std::int64_t g = 0; g < task.groups; ++g) {
    // Groups of one item have no differences within.
    d.a[static_cast<std::size_t>(g)] = task.per_group > 1 ? sign(x.a[static_cast<std::size_t>(g)]) : 0;
    d.b(g, g) -= d.a[static_cast<std::size_t>(g)];
  }
  d.b = scaled(1 / c, d.b);
  return d;
}

}  // namespace

void describe_rule(OptionVisitor& v, MemoryRule& rule) {
  static constexpr Word<MemoryRule> kRules[] = {{"gradient", MemoryRule::gradient},
                                                {"normalized", MemoryRule::normalized},
                                                {"polar", MemoryRule::orthogonal},
                                                {"sign_in_basis", MemoryRule::sign_in_basis}};
  v.field("update", choice(rule, kRules), {}, "what is taken for Muon's U V^T");
}

GroupedMatrix direction(const MemoryTask& task, const GroupedMatrix& gradient, MemoryRule rule) {
  switch (rule) {
    case MemoryRule::gradient:
      break;
    case MemoryRule::normalized: {
      GroupedMatrix d(task.groups);
      d.add_scaled(1 / frobenius_of(task, gradient), gradient);
      return d;
    }
    case MemoryRule::orthogonal:
      return orthogonal(task, gradient);
    case MemoryRule::sign_in_basis:
      return signs(gradient);
  }
  return gradient;
}

std::vector<double> memory_run(const MemoryTask& task, MemoryRule rule, double eta, std::int64_t steps,
                               double until) {
  GroupedMatrix w(task.groups);
  std::vector<double> losses;
  MemoryState state = evaluate(task, w);
  for (std::int64_t t = 0; t < steps; ++t) {
    w.add_scaled(-eta, direction(task, state.gradient, rule));
    state = evaluate(task, w);
    losses.push_back(state.total);
    if (state.total < until) break;
  }
  return losses;
}

std::vector<double> memory_gradient_run(const MemoryTask& task, double eta, std::int64_t steps) {
  // The logit of the right answer above the wrong ones' is all that a column has: its gradient is p (p(j|j) -
  // q), and each of the K - 1 wrong answers' is the (K - 1)-th part of that with the other sign.
  const double others = static_cast<double>(task.items() - 1), entropy = task.entropy();
  std::vector<double> margin(static_cast<std::size_t>(task.groups)), losses;
  for (std::int64_t t = 0; t < steps; ++t) {
    double total = 0;
    for (std::int64_t g = 0; g < task.groups; ++g) {
      double& x = margin[static_cast<std::size_t>(g)];
      double rest = others * std::exp(-x);
      const double error = (1 - task.right()) - rest / (1 + rest);
      x -= eta * task.frequency(g) * error * (1 + 1 / others);
      rest = others * std::exp(-x);
      total += task.share(g) * (std::log1p(rest) + (1 - task.right()) * x - entropy);
    }
    losses.push_back(total);
  }
  return losses;
}

}  // namespace spectrain::lab
