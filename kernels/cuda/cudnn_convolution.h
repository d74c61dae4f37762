#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cuda/convolution_shape.h"
#include "kernels/cuda/cudnn_plan.h"

// A convolution of images that lie channels last, and its gradients, as graphs of one operation each. To
// cuDNN images are [batch, channels, height, width] and filters [filters, channels, height, width] in this
// order of words, whatever the order in memory, which strides say: a row of the program's filters [N, patch]
// is one filter, its channels last.

namespace spectrain {

// What a caller binds to memory when the graph runs.
enum class ConvolutionTensor : std::int64_t {
  images = 1,  // x or dx
  filters,     // or their gradient
  places       // y or dy
};

// All tensors have the shape's dtype, filters' gradients too: for a gradient from bf16 in float32 cuDNN 9.19
// has only engines that compile their code for half a second, add another tensor in the same kernel, and want
// channels in multiples of 8. Sums are float32. Throws CudnnError where cuDNN refuses the description. A
// handle is needed only to run it.
CudnnGraph convolution_graph(std::shared_ptr<const Cudnn> cudnn, ConvolutionPass pass,
                             const ConvolutionShape& shape, cudnnHandle_t handle = nullptr);

// Kernels that give the same result each time and sum in float32; for float32, the exact path, also none that
// compute in fewer bits than they are given or by transforms whose terms cancel.
CudnnWish convolution_wish(DType dtype);

}  // namespace spectrain
