#include "kernels/cpu/isa/update.h"

#include "kernels/cpu/isa/vector_math.h"

namespace spectrain::SPECTRAIN_ISA {
namespace {

using u16 = std::uint16_t;

void adamw(const AdamWFactors& f, float* __restrict w, const float* __restrict g, float* __restrict m,
           float* __restrict v, std::int64_t n) {
  const AdamWFactors k = f;
  for (std::int64_t i = 0; i < n; ++i) adamw_element(k, w[i], g[i], m[i], v[i]);
}

template <class U>
void ema_momentum(const float* __restrict g, float gradient_scale, float mu, float rest, bool nesterov,
                  float* __restrict m, void* u_, std::int64_t n) {
  U* __restrict u = static_cast<U*>(u_);
  if (nesterov) {
    for (std::int64_t i = 0; i < n; ++i)
      store(u + i, ema_element(g[i], gradient_scale, mu, rest, true, m[i]));
  } else {
    for (std::int64_t i = 0; i < n; ++i)
      store(u + i, ema_element(g[i], gradient_scale, mu, rest, false, m[i]));
  }
}

template <class U>
void shrink_and_step(float* __restrict w, float decay, float step, const void* u_, std::int64_t n) {
  const U* __restrict u = static_cast<const U*>(u_);
  for (std::int64_t i = 0; i < n; ++i) w[i] = shrink_and_step_element(w[i], decay, step, load(u + i));
}

template <class U>
void keep_and_step(float* __restrict w, float keep, float step, const void* u_, std::int64_t n) {
  const U* __restrict u = static_cast<const U*>(u_);
  for (std::int64_t i = 0; i < n; ++i) w[i] = keep_and_step_element(w[i], keep, step, load(u + i));
}

}  // namespace

const UpdateTable update_table = {
    adamw,
    {ema_momentum<float>, ema_momentum<u16>},
    {shrink_and_step<float>, shrink_and_step<u16>},
    {keep_and_step<float>, keep_and_step<u16>},
};

}  // namespace spectrain::SPECTRAIN_ISA
