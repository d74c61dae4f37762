#pragma once

#include "kernels/cpu/isa/isa.h"

namespace spectrain {

struct AdamWFactors {
  float gradient_scale = 1;
  float beta1 = 0, rest1 = 0, beta2 = 0, rest2 = 0;  // rest = 1 - beta, rounded once from double
  float decay = 0;                                   // lr * weight_decay
  float step = 0;                                    // lr / (1 - beta1^t)
  float root = 0;                                    // 1 / sqrt(1 - beta2^t)
  float eps = 0;
};

struct UpdateTable {
  void (*adamw)(const AdamWFactors& f, float* w, const float* g, float* m, float* v, std::int64_t n);
  // u: [0] f32, [1] bf16
  void (*ema_momentum[2])(const float* g, float gradient_scale, float mu, float rest, bool nesterov, float* m,
                          void* u, std::int64_t n);
  // w -= decay w + step u
  void (*shrink_and_step[2])(float* w, float decay, float step, const void* u, std::int64_t n);
  // w = keep w - step u
  void (*keep_and_step[2])(float* w, float keep, float step, const void* u, std::int64_t n);
};
SPECTRAIN_ISA_TABLE(UpdateTable, update_table)

}  // namespace spectrain
