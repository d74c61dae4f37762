#include <stdexcept>

#include "kernels/cuda/products.h"

namespace spectrain {
std::unique_ptr<Products> make_products(CudaBackend&) {
  throw std::logic_error("cuda: products are missing");
}
}  // namespace spectrain
