#include "kernels/cpu/isa/update.h"

#include <cmath>

#include "kernels/cpu/isa/vector_math.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

using u16 = std::uint16_t;

void adamw(const AdamWFactors& f, float* __restrict w, const float* __restrict g, float* __restrict m,
           float* __restrict v, std::int64_t n) {
  const AdamWFactors k = f;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = k.gradient_scale * g[i];
    const float mi = k.beta1 * m[i] + k.rest1 * gradient;
    const float vi = k.beta2 * v[i] + k.rest2 * (gradient * gradient);
    m[i] = mi;
    v[i] = vi;
    // The change is summed before it meets the weight: 1 - lr decay as a float would be wrong by up to 6e-8,
    // a large part of a decay of 1e-6.
    w[i] -= k.decay * w[i] + k.step * mi / (std::sqrt(vi) * k.root + k.eps);
  }
}

template <class U>
void ema_momentum(const float* __restrict g, float gradient_scale, float mu, float rest, bool nesterov,
                  float* __restrict m, void* u_, std::int64_t n) {
  U* __restrict u = static_cast<U*>(u_);
  if (nesterov) {
    for (std::int64_t i = 0; i < n; ++i) {
      const float gradient = rest * (gradient_scale * g[i]);
      const float mi = mu * m[i] + gradient;
      m[i] = mi;
      store(u + i, mu * mi + gradient);
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) {
      const float mi = mu * m[i] + rest * (gradient_scale * g[i]);
      m[i] = mi;
      store(u + i, mi);
    }
  }
}

template <class U>
void shrink_and_step(float* __restrict w, float decay, float step, const void* u_, std::int64_t n) {
  const U* __restrict u = static_cast<const U*>(u_);
  for (std::int64_t i = 0; i < n; ++i) w[i] -= decay * w[i] + step * load(u + i);
}

template <class U>
void keep_and_step(float* __restrict w, float keep, float step, const void* u_, std::int64_t n) {
  const U* __restrict u = static_cast<const U*>(u_);
  for (std::int64_t i = 0; i < n; ++i) w[i] = keep * w[i] - step * load(u + i);
}

}  // namespace

const UpdateTable update_table = {
    adamw,
    {ema_momentum<float>, ema_momentum<u16>},
    {shrink_and_step<float>, shrink_and_step<u16>},
    {keep_and_step<float>, keep_and_step<u16>},
};

}  // namespace spectrain::SPECTRAIN_ISA
