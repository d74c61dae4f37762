#pragma once

#include "kernels/cpu/isa/isa.h"
#include "kernels/formulas_update.h"

namespace spectrain {

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
