#pragma once

#include <math.h>  // logf, tanhf by their global names, which device code has too

#include "kernels/backend.h"
#include "kernels/host_device.h"

// Drawing a token from softmax(z): the token with the largest z + G, where the G are independent with the
// distribution exp(-exp(-x)) (Gumbel's). No sum, no second look at the logits, and the draw of a token does
// not depend on how the others are spread over threads.

namespace spectrain {

// The capped logit of Softcap.
SPECTRAIN_HD inline float capped_logit(const Softcap& c, float z) {
  const float cap = static_cast<float>(c.cap);
  switch (c.kind) {
    case Softcap::Kind::tanh:
      return cap * tanhf(z / cap);
    case Softcap::Kind::sigmoid:
      return cap / (1.0f + expf(-(z + static_cast<float>(c.offset)) / static_cast<float>(c.divisor)));
    case Softcap::Kind::rational:
      return z * cap / sqrtf(z * z + cap * cap);
    case Softcap::Kind::none:
      break;
  }
  return z;
}

// From a random word. The uniform number is (k + 1/2) / 2^23: neither 0 nor 1.
SPECTRAIN_HD inline float gumbel(std::uint32_t word) {
  return -logf(-logf((static_cast<float>(word >> 9) + 0.5f) * 0x1p-23f));
}

// The random words of row `row` are blocks [row * gumbel_blocks(vocab), ...) of the key; token v has word v.
SPECTRAIN_HD inline std::uint64_t gumbel_blocks(std::int64_t vocab) {
  return static_cast<std::uint64_t>((vocab + 3) / 4);
}

}  // namespace spectrain
