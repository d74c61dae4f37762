#include "kernels/cuda/convolution.h"

namespace spectrain {

// The emulated GPU has no library.
std::unique_ptr<LibraryConvolution> make_library_convolution(CudaBackend&) { return nullptr; }

}  // namespace spectrain
