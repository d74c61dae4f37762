#pragma once

#include <cstdint>

#include "kernels/backend.h"

// The two factors of Shampoo and its kin (Gupta et al. 2018): averages of G G^T [m,m] and G^T G [n,n] of
// gradients G [m,n]. A side that is longer than a rule allows has none, and counts as the identity.

namespace spectrain {

inline bool has_factor(std::int64_t side, std::int64_t max_dimension) { return side <= max_dimension; }
// Of its state. One number where there is no factor: all parts of a parameter have the same slots.
inline Shape factor_shape(std::int64_t side, std::int64_t max_dimension) {
  return has_factor(side, max_dimension) ? Shape{side, side} : Shape{1};
}

// L = b L + (1 - b) G G^T;  square [m,m] is memory to work in.
void add_left(Backend& backend, const Tensor& g, double b, const Tensor& left, const Tensor& square);
// R = b R + (1 - b) G^T G;  square [n,n] and turned [n,m] are memory to work in.
void add_right(Backend& backend, const Tensor& g, double b, const Tensor& right, const Tensor& square,
               const Tensor& turned);

}  // namespace spectrain
