#include <cmath>
#include <stdexcept>
#include <utility>
#include <vector>

#include "tests/reference/reference_backend.h"

namespace spectrain {
namespace {

using Index = std::int64_t;
using Head = std::vector<double>;

Head head_of(const double* p, Index head_dim) { return Head(p, p + head_dim); }

std::pair<std::size_t, std::size_t> pair_at(RotaryPairs pairs, std::size_t i, std::size_t half) {
  if (pairs == RotaryPairs::halves) return {i, i + half};
  return {2 * i, 2 * i + 1};
}

// Rotates pair i of one head by sign * angle; the inverse rotation is the rotation by -sign.
void rotate(const QkTransform& t, Index position, double sign, Head& x) {
  if (!t.cos) return;
  const std::size_t half = x.size() / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const Index at = position * static_cast<Index>(half) + static_cast<Index>(i);
    const double c = t.cos.as<double>()[at], s = sign * t.sin.as<double>()[at];
    const auto [first, second] = pair_at(t.pairs, i, half);
    const double x1 = x[first], x2 = x[second];
    x[first] = x1 * c - x2 * s;
    x[second] = x1 * s + x2 * c;
  }
}

double dot(const double* a, const double* b, Index n) {
  double s = 0;
  for (Index i = 0; i < n; ++i) s += a[i] * b[i];
  return s;
}

// Where in row (batch, position) of qkv the three parts of a query head stand.
struct Parts {
  Index q, k, v;
};
Parts parts_of(const HeadLayout& l, Index batch, Index position, Index head) {
  const Index row = (batch * l.context + position) * l.packed();
  const Index group = head / (l.heads / l.kv_heads);
  return {row + head * l.head_dim, row + (l.heads + group) * l.head_dim,
          row + (l.heads + l.kv_heads + group) * l.head_dim};
}

Index first_seen(const HeadLayout& l, const Tensor& first_key, Index batch, Index position) {
  return first_key ? first_key.as<std::int32_t>()[batch * l.context + position] : 0;
}

}  // namespace

void ReferenceBackend::qk_transform(const HeadLayout& l, const QkTransform& t, const Tensor& in,
                                    const Tensor& out, const Tensor& rstd) {
  const double* source = in.as<double>();
  double* target = out.as<double>();
  const Index D = l.head_dim, qk_heads = l.heads + l.kv_heads;
  for (Index r = 0; r < l.rows(); ++r)
    for (Index h = 0; h < l.heads + 2 * l.kv_heads; ++h) {
      const Index at = r * l.packed() + h * D;
      Head x = head_of(source + at, D);
      if (h < qk_heads) {
        if (t.norm) {
          const double inverse = 1 / std::sqrt(dot(x.data(), x.data(), D) / static_cast<double>(D) + t.eps);
          rstd.as<double>()[r * qk_heads + h] = inverse;
          for (double& e : x) e *= inverse;
        }
        rotate(t, r % l.context, t.sign, x);
      }
      for (Index i = 0; i < D; ++i) target[at + i] = x[static_cast<std::size_t>(i)];
    }
}

void ReferenceBackend::qk_transform_backward(const HeadLayout& l, const QkTransform& t, const Tensor& dout,
                                             const Tensor& out, const Tensor& rstd, const Tensor& din) {
  const Index D = l.head_dim, qk_heads = l.heads + l.kv_heads;
  for (Index r = 0; r < l.rows(); ++r)
    for (Index h = 0; h < l.heads + 2 * l.kv_heads; ++h) {
      const Index at = r * l.packed() + h * D;
      Head d = head_of(dout.as<double>() + at, D);
      if (h < qk_heads) {
        rotate(t, r % l.context, -t.sign, d);
        if (t.norm) {
          // The normalised head is the output turned back: y = x rstd, dx = rstd (d - y mean(d y)).
          Head y = head_of(out.as<double>() + at, D);
          rotate(t, r % l.context, -t.sign, y);
          const double along = dot(d.data(), y.data(), D) / static_cast<double>(D);
          const double inverse = rstd.as<double>()[r * qk_heads + h];
          for (std::size_t i = 0; i < d.size(); ++i) d[i] = inverse * (d[i] - y[i] * along);
        }
      }
      for (Index i = 0; i < D; ++i) din.as<double>()[at + i] = d[static_cast<std::size_t>(i)];
    }
}

void ReferenceBackend::attention(const HeadLayout& l, double scale, const Tensor& qkv,
                                 const Tensor& first_key, const Tensor& out, const Tensor& lse) {
  const double* X = qkv.as<double>();
  const Index D = l.head_dim;
  for (Index b = 0; b < l.batch; ++b)
    for (Index h = 0; h < l.heads; ++h)
      for (Index t = 0; t < l.context; ++t) {
        const Index first = first_seen(l, first_key, b, t);
        std::vector<double> score;
        double largest = -INFINITY, total = 0;
        for (Index s = first; s <= t; ++s) {
          const double z = scale * dot(X + parts_of(l, b, t, h).q, X + parts_of(l, b, s, h).k, D);
          score.push_back(z);
          largest = std::max(largest, z);
        }
        for (const double z : score) total += std::exp(z - largest);
        const double log_sum = largest + std::log(total);
        if (lse) lse.as<double>()[(b * l.heads + h) * l.context + t] = log_sum;
        double* o = out.as<double>() + (b * l.context + t) * l.width() + h * D;
        for (Index i = 0; i < D; ++i) o[i] = 0;
        for (Index s = first; s <= t; ++s)
          for (Index i = 0; i < D; ++i)
            o[i] += std::exp(score[static_cast<std::size_t>(s - first)] - log_sum) *
                    X[parts_of(l, b, s, h).v + i];
      }
}

void ReferenceBackend::attention_backward(const HeadLayout& l, double scale, const Tensor& dout,
                                          const Tensor& qkv, const Tensor& first_key, const Tensor& out,
                                          const Tensor& lse, const Tensor& dqkv) {
  const double* X = qkv.as<double>();
  double* DX = dqkv.as<double>();
  const Index D = l.head_dim;
  fill(dqkv, 0);
  for (Index b = 0; b < l.batch; ++b)
    for (Index h = 0; h < l.heads; ++h)
      for (Index t = 0; t < l.context; ++t) {
        const Index row = (b * l.context + t) * l.width() + h * D;
        const double* d = dout.as<double>() + row;
        const double mean_gradient = dot(d, out.as<double>() + row, D);
        const Parts at = parts_of(l, b, t, h);
        for (Index s = first_seen(l, first_key, b, t); s <= t; ++s) {
          const Parts from = parts_of(l, b, s, h);
          const double p = std::exp(scale * dot(X + at.q, X + from.k, D) -
                                    lse.as<double>()[(b * l.heads + h) * l.context + t]);
          const double dz = p * (dot(d, X + from.v, D) - mean_gradient) * scale;
          for (Index i = 0; i < D; ++i) {
            DX[from.v + i] += p * d[i];
            DX[at.q + i] += dz * X[from.k + i];
            DX[from.k + i] += dz * X[at.q + i];
          }
        }
      }
}

}  // namespace spectrain
