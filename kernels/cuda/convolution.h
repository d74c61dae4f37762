#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/convolution_shape.h"
#include "kernels/cuda/cuda_backend.h"

// Convolutions through a library that has them, cuDNN. Where it has none for a shape the caller takes
// unfold() and a matrix product. convolution.cpp asks, convolution_cudnn.cpp answers.

namespace spectrain {

class LibraryConvolution {
 public:
  virtual ~LibraryConvolution() = default;
  // x or dx [pixels, channels], filters or their gradient [N, patch], y or dy [places, N]; which of them is
  // the result is what `pass` says. All have shape.dtype, except for the filters' gradient, which is f32 and
  // to which may be added. False: nothing was done, and why_not() says why; that answer holds for all later
  // calls with the pass and shape.
  virtual bool run(ConvolutionPass pass, const ConvolutionShape& shape, const Tensor& images,
                   const Tensor& filters, const Tensor& places, bool accumulate) = 0;
  virtual std::string why_not() const = 0;
  virtual std::string description() const = 0;  // "cuDNN 9.19.0"
};
// Null where cuDNN is not there; convolution_cudnn.cpp, or convolution_cudnn_none.cpp in a build without it.
std::unique_ptr<LibraryConvolution> make_library_convolution(CudaBackend& backend);

struct CudaBackend::Convolutions {
  std::unique_ptr<LibraryConvolution> library;
  std::vector<std::pair<ConvolutionPass, ConvolutionShape>> refused;  // by the library
  std::vector<std::string> notes;                                     // one for each, for the user
};

}  // namespace spectrain
