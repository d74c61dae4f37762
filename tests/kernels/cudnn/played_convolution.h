#pragma once

#include <vector>

#include "kernels/cuda/cudnn_convolution.h"
#include "tests/kernels/cudnn/played_cudnn.h"

namespace spectrain {

struct ConvolutionMemory {
  std::vector<double>&images, &filters, &places;
};

// What a graph of one convolution, told to played_cudnn(), asks for, done by cuDNN's definitions in float64.
// Throws std::logic_error where it is not a convolution of tensors of this type with sums in float32.
void carry_out(const Noted& graph, cudnnDataType_t type, const ConvolutionMemory& memory);

}  // namespace spectrain
