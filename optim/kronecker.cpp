#include "optim/kronecker.h"

namespace spectrain {

void add_left(Backend& backend, const Tensor& g, double b, const Tensor& left, const Tensor& square) {
  backend.symmetric_product(g, 1, {}, 0, square);
  backend.axpby(1 - b, square, b, left);
}

void add_right(Backend& backend, const Tensor& g, double b, const Tensor& right, const Tensor& square,
               const Tensor& turned) {
  backend.transpose(g, turned);
  add_left(backend, turned, b, right, square);
}

}  // namespace spectrain
