#pragma once

#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/products.h"

// What cuBLASLt leaves over: it has kernels neither for every shape and alignment nor for every epilogue.

namespace spectrain {

// The whole product, epilogue included, for any shape, by own kernels without tensor cores.
void plain_product(CudaBackend& backend, const Product& product);

// c[m,n] = bias[n] in every row, for a product with beta 1 to be added to: the sum is rounded once, as in a
// library's epilogue.
void spread_bias(CudaBackend& backend, const Product& product);

}  // namespace spectrain
