#include <cmath>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "tests/reference/reference_backend.h"

namespace spectrain {
namespace {

const double kSqrt2OverPi = std::sqrt(2 / std::numbers::pi);

double phi(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }
double Phi(double x) { return 0.5 * std::erfc(-x / std::numbers::sqrt2); }
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double apply(Activation act, double x) {
  switch (act) {
    case Activation::none:
      return x;
    case Activation::gelu:
      return x * Phi(x);
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(kSqrt2OverPi * (x + 0.044715 * x * x * x)));
    case Activation::relu2:
      return x > 0 ? x * x : 0;
    case Activation::sigmoid:
      return sigmoid(x);
    case Activation::relu:
      return x > 0 ? x : 0;
  }
  throw std::logic_error("unknown activation");
}

// `saved` is the output y where saves_output(act), else the input x.
double derivative(Activation act, double saved) {
  const double x = saved;
  switch (act) {
    case Activation::none:
      return 1;
    case Activation::gelu:
      return Phi(x) + x * phi(x);
    case Activation::gelu_tanh: {
      const double t = std::tanh(kSqrt2OverPi * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * kSqrt2OverPi * (1 + 3 * 0.044715 * x * x);
    }
    case Activation::relu2:
      return 2 * std::sqrt(saved);
    case Activation::sigmoid:
      return saved * (1 - saved);
    case Activation::relu:
      return saved > 0 ? 1 : 0;
  }
  throw std::logic_error("unknown activation");
}

// cap(z) and its derivative.
struct Capped {
  double value, slope;
};
Capped capped(const Softcap& c, double z) {
  switch (c.kind) {
    case Softcap::Kind::none:
      return {z, 1};
    case Softcap::Kind::tanh: {
      const double t = std::tanh(z / c.cap);
      return {c.cap * t, 1 - t * t};
    }
    case Softcap::Kind::sigmoid: {
      const double s = sigmoid((z + c.offset) / c.divisor);
      return {c.cap * s, c.cap * s * (1 - s) / c.divisor};
    }
    case Softcap::Kind::rational: {
      const double q = z * z + c.cap * c.cap;
      return {z * c.cap / std::sqrt(q), c.cap * c.cap * c.cap / (q * std::sqrt(q))};
    }
  }
  throw std::logic_error("unknown softcap");
}

}  // namespace

void ReferenceBackend::activation(Activation act, const Tensor& x, const Tensor& y) {
  for (std::int64_t i = 0; i < x.numel(); ++i) y.as<double>()[i] = apply(act, x.as<double>()[i]);
}

void ReferenceBackend::activation_backward(Activation act, const Tensor& dy, const Tensor& saved,
                                           const Tensor& dx) {
  for (std::int64_t i = 0; i < dy.numel(); ++i)
    dx.as<double>()[i] = dy.as<double>()[i] * derivative(act, saved.as<double>()[i]);
}

void ReferenceBackend::swiglu(const Tensor& x, const Tensor& y) {
  const std::int64_t F = y.cols();
  for (std::int64_t r = 0; r < y.rows(); ++r)
    for (std::int64_t f = 0; f < F; ++f) {
      const double gate = x.as<double>()[r * 2 * F + f], up = x.as<double>()[r * 2 * F + F + f];
      y.as<double>()[r * F + f] = gate * sigmoid(gate) * up;
    }
}

void ReferenceBackend::swiglu_backward(const Tensor& dy, const Tensor& x, const Tensor& dx) {
  const std::int64_t F = dy.cols();
  for (std::int64_t r = 0; r < dy.rows(); ++r)
    for (std::int64_t f = 0; f < F; ++f) {
      const double gate = x.as<double>()[r * 2 * F + f], up = x.as<double>()[r * 2 * F + F + f];
      const double d = dy.as<double>()[r * F + f], s = sigmoid(gate);
      dx.as<double>()[r * 2 * F + f] = d * up * (s + gate * s * (1 - s));
      dx.as<double>()[r * 2 * F + F + f] = d * gate * s;
    }
}

void ReferenceBackend::add(const Tensor& a, const Tensor& b, const Tensor& y) {
  for (std::int64_t i = 0; i < y.numel(); ++i) y.as<double>()[i] = a.as<double>()[i] + b.as<double>()[i];
}

void ReferenceBackend::scale(const Tensor& x, double factor, const Tensor& y) {
  for (std::int64_t i = 0; i < y.numel(); ++i) y.as<double>()[i] = factor * x.as<double>()[i];
}

// ---- norms

void ReferenceBackend::norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias,
                            double eps, const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  const std::int64_t R = x.rows(), C = x.cols();
  for (std::int64_t r = 0; r < R; ++r) {
    const double* X = x.as<double>() + r * C;
    double mu = 0;
    if (kind == NormKind::layer) {
      for (std::int64_t c = 0; c < C; ++c) mu += X[c];
      mu /= static_cast<double>(C);
    }
    double square = 0;
    for (std::int64_t c = 0; c < C; ++c) square += (X[c] - mu) * (X[c] - mu);
    const double inverse = 1 / std::sqrt(square / static_cast<double>(C) + eps);
    if (mean && kind == NormKind::layer) mean.as<double>()[r] = mu;
    if (rstd) rstd.as<double>()[r] = inverse;
    for (std::int64_t c = 0; c < C; ++c)
      y.as<double>()[r * C + c] =
          (X[c] - mu) * inverse * (gain ? gain.as<double>()[c] : 1) + (bias ? bias.as<double>()[c] : 0);
  }
}

void ReferenceBackend::add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain,
                                const Tensor& bias, double eps, const Tensor& sum, const Tensor& y,
                                const Tensor& mean, const Tensor& rstd) {
  add(a, b, sum);
  norm(kind, sum, gain, bias, eps, y, mean, rstd);
}

void ReferenceBackend::norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain,
                                     const Tensor& mean, const Tensor& rstd, const Tensor& dx,
                                     bool accumulate, const Tensor& dgain, const Tensor& dbias,
                                     bool accumulate_parameters) {
  const std::int64_t R = x.rows(), C = x.cols();
  if (!accumulate_parameters) {
    if (dgain) fill(dgain, 0);
    if (dbias) fill(dbias, 0);
  }
  for (std::int64_t r = 0; r < R; ++r) {
    const double mu = kind == NormKind::layer ? mean.as<double>()[r] : 0, inverse = rstd.as<double>()[r];
    std::vector<double> unit(static_cast<std::size_t>(C)), g(static_cast<std::size_t>(C));
    double sum_g = 0, sum_gu = 0;
    for (std::int64_t c = 0; c < C; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double d = dy.as<double>()[r * C + c];
      unit[i] = (x.as<double>()[r * C + c] - mu) * inverse;
      g[i] = d * (gain ? gain.as<double>()[c] : 1);
      sum_g += g[i];
      sum_gu += g[i] * unit[i];
      if (dgain) dgain.as<double>()[c] += d * unit[i];
      if (dbias) dbias.as<double>()[c] += d;
    }
    if (kind == NormKind::rms) sum_g = 0;
    for (std::int64_t c = 0; c < C; ++c) {
      const auto i = static_cast<std::size_t>(c);
      const double value =
          inverse * (g[i] - sum_g / static_cast<double>(C) - unit[i] * sum_gu / static_cast<double>(C));
      double& out = dx.as<double>()[r * C + c];
      out = accumulate ? out + value : value;
    }
  }
}

// ---- tokens

void ReferenceBackend::embedding(const Tensor& tokens, const Tensor& table, const Tensor& positions,
                                 std::int64_t context, const Tensor& out) {
  const std::int64_t C = table.cols();
  for (std::int64_t r = 0; r < tokens.numel(); ++r) {
    const std::int64_t token = tokens.as<std::int32_t>()[r];
    if (token < 0 || token >= table.rows()) throw std::logic_error("embedding: a token outside the table");
    for (std::int64_t c = 0; c < C; ++c)
      out.as<double>()[r * C + c] =
          table.as<double>()[token * C + c] + (positions ? positions.as<double>()[r % context * C + c] : 0);
  }
}

void ReferenceBackend::embedding_backward(const Tensor& tokens, const Tensor& dout, std::int64_t context,
                                          const Tensor& dtable, const Tensor& dpositions) {
  const std::int64_t C = dout.cols();
  for (std::int64_t r = 0; r < tokens.numel(); ++r)
    for (std::int64_t c = 0; c < C; ++c) {
      const double d = dout.as<double>()[r * C + c];
      if (dtable) dtable.as<double>()[tokens.as<std::int32_t>()[r] * C + c] += d;
      if (dpositions) dpositions.as<double>()[r % context * C + c] += d;
    }
}

void ReferenceBackend::cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab,
                                     const Softcap& cap, double gradient_scale, const Tensor& losses,
                                     const Tensor& dlogits) {
  const std::int64_t R = logits.rows(), V = logits.cols();
  for (std::int64_t r = 0; r < R; ++r) {
    const std::vector<double> z(logits.as<double>() + r * V, logits.as<double>() + r * V + vocab);
    const std::int64_t target = targets.as<std::int32_t>()[r];
    if (target < -1 || target >= vocab)
      throw std::logic_error("cross_entropy: a target outside the vocabulary");
    double largest = -INFINITY, total = 0;
    for (const double l : z) largest = std::max(largest, capped(cap, l).value);
    for (const double l : z) total += std::exp(capped(cap, l).value - largest);
    const double lse = largest + std::log(total);
    losses.as<double>()[r] = target < 0 ? 0 : lse - capped(cap, z[static_cast<std::size_t>(target)]).value;
    if (!dlogits) continue;
    for (std::int64_t v = 0; v < V; ++v) {
      double d = 0;
      if (target >= 0 && v < vocab) {
        const Capped c = capped(cap, z[static_cast<std::size_t>(v)]);
        d = (std::exp(c.value - lse) - (v == target ? 1 : 0)) * c.slope * gradient_scale;
      }
      dlogits.as<double>()[r * V + v] = d;
    }
  }
}

void ReferenceBackend::sample_targets(const Tensor& logits, std::int64_t vocab, const Softcap& cap,
                                      RandomKey key, std::int64_t first, const Tensor& targets) {
  const std::int64_t R = logits.rows(), V = logits.cols(), blocks = (vocab + 3) / 4;
  for (std::int64_t r = 0; r < R; ++r) {
    std::int32_t& target = targets.as<std::int32_t>()[r];
    if (target < 0) continue;
    double best = -INFINITY;
    for (std::int64_t v = 0; v < vocab; ++v) {
      const std::uint32_t word = random_u32(key, static_cast<std::uint64_t>(4 * (first + r) * blocks + v));
      const double u = (static_cast<double>(word >> 9) + 0.5) / 8388608.0;
      const double score = capped(cap, logits.as<double>()[r * V + v]).value - std::log(-std::log(u));
      if (score > best) {
        best = score;
        target = static_cast<std::int32_t>(v);
      }
    }
  }
}

}  // namespace spectrain
